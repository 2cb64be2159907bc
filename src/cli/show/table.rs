//! Tables: columns apart by two spaces, cut to a width in the middle of names and never in states. Sentences are wrapped.

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ContentArrangement};

/// Least width of a column that is made narrower.
const LEAST: usize = 8;
/// Width down to which sentences are wrapped before names are cut.
const EASY: usize = 16;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Column {
    head: &'static str,
    narrows: Narrows,
    is_right: bool,
}

/// How the cells of a column are made narrower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Narrows {
    Never,
    /// Cut in the middle.
    Cut,
    /// Wrapped between words.
    Wrapped,
    /// Left out.
    LeftOut,
}

impl Column {
    /// A column whose cells are never cut.
    pub(in crate::cli) const fn whole(head: &'static str) -> Self {
        Self {
            head,
            narrows: Narrows::Never,
            is_right: false,
        }
    }

    /// A column of names.
    pub(in crate::cli) const fn name(head: &'static str) -> Self {
        Self {
            head,
            narrows: Narrows::Cut,
            is_right: false,
        }
    }

    /// A column of sentences, which are never cut.
    pub(in crate::cli) const fn sentence(head: &'static str) -> Self {
        Self {
            head,
            narrows: Narrows::Wrapped,
            is_right: false,
        }
    }

    /// A column of numbers that is left out where names would be cut short otherwise.
    pub(in crate::cli) const fn spare(head: &'static str) -> Self {
        Self {
            head,
            narrows: Narrows::LeftOut,
            is_right: true,
        }
    }

    /// A column of numbers.
    pub(in crate::cli) const fn number(head: &'static str) -> Self {
        Self {
            head,
            narrows: Narrows::Never,
            is_right: true,
        }
    }
}

/// A table without lines.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(in crate::cli) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self {
            columns: columns.into(),
            rows: Vec::new(),
        }
    }

    /// Add a row; control characters are escaped.
    pub(in crate::cli) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| crate::telemetry::escaped(&cell));
        self.rows.push(cells.collect());
    }

    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table in lines, with colours that [`super::super::print`] removes where they are not wanted. `width`: none: as
    /// wide as its cells.
    pub(in crate::cli) fn render(&self, width: Option<usize>) -> String {
        let least = |(width, column): (&usize, &Column)| match column.narrows {
            Narrows::Cut | Narrows::Wrapped => (*width).min(EASY),
            Narrows::Never | Narrows::LeftOut => *width,
        };
        let least: usize = self.widths(None).iter().zip(&self.columns).map(least).sum();
        let gaps = 2 * self.columns.len().saturating_sub(1);
        match width.is_some_and(|width| least + gaps > width) {
            true => self.without_spare().drawn(width),
            false => self.drawn(width),
        }
    }

    fn without_spare(&self) -> Self {
        let is_kept = |column: &Column| column.narrows != Narrows::LeftOut;
        let kept = |row: &Vec<String>| {
            let cells = row.iter().zip(&self.columns);
            cells
                .filter(|(_, column)| is_kept(column))
                .map(|(cell, _)| cell.clone())
                .collect()
        };
        Self {
            columns: self.columns.iter().copied().filter(is_kept).collect(),
            rows: self.rows.iter().map(kept).collect(),
        }
    }

    fn drawn(&self, width: Option<usize>) -> String {
        let widths = self.widths(width);
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        let has_head = self.columns.iter().any(|column| !column.head.is_empty());
        if has_head {
            table.set_header(self.columns.iter().map(|column| column.head).collect::<Vec<_>>());
        }
        for row in &self.rows {
            let cells = row.iter().zip(&self.columns).zip(&widths);
            table.add_row(
                cells
                    .map(|((cell, column), width)| match column.narrows {
                        Narrows::Wrapped => wrapped(cell, *width).join("\n"),
                        Narrows::Cut | Narrows::Never | Narrows::LeftOut => cut(cell, *width),
                    })
                    .collect::<Vec<_>>(),
            );
        }
        for (index, column) in self.columns.iter().enumerate() {
            if let Some(drawn) = table.column_mut(index) {
                drawn.set_padding((0, 2));
                if column.is_right {
                    drawn.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        let text = table.trim_fmt();
        let lines = text.lines().enumerate();
        let styled = lines.map(|(index, line)| match has_head && index == 0 {
            true => painted(line, Style::new().bold()),
            false => with_states(line),
        });
        styled.collect::<Vec<_>>().join("\n")
    }

    /// The widths of the columns.
    fn widths(&self, width: Option<usize>) -> Vec<usize> {
        let of_column = |(index, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or_default();
            widest.max(column.head.chars().count())
        };
        let mut widths: Vec<usize> = self.columns.iter().enumerate().map(of_column).collect();
        let Some(width) = width else { return widths };

        let gaps = 2 * self.columns.len().saturating_sub(1);
        let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
        let steps = [
            (Narrows::Wrapped, EASY),
            (Narrows::Cut, LEAST),
            (Narrows::Wrapped, LEAST),
        ];
        for (narrows, least) in steps {
            while excess > 0 {
                let widest = widths
                    .iter()
                    .enumerate()
                    .filter(|(index, width)| self.columns[*index].narrows == narrows && **width > least);
                let Some((index, _)) = widest.max_by_key(|(_, width)| **width) else {
                    break;
                };
                widths[index] -= 1;
                excess -= 1;
            }
        }
        widths
    }
}

/// A text without its middle, if it is wider.
pub(in crate::cli) fn cut(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width || width < 2 {
        return text.to_owned();
    }
    let kept = width - 1;
    let front = kept.div_ceil(2);
    let start: String = text.chars().take(front).collect();
    let end: String = text.chars().skip(count - (kept - front)).collect();
    format!("{start}…{end}")
}

/// A text in lines of a width; a longer word is cut in its middle.
pub(in crate::cli) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        // The sign of a document stands before its name.
        let word = match word {
            "~" | "+" | "-" => format!("{word} {}", words.next().unwrap_or_default()),
            word => word.to_owned(),
        };
        let word = cut(&word, width);
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines.push(line);
    lines
}

/// A line that is wrapped at a width; further lines are indented by two more.
pub(in crate::cli) fn paragraph(text: &str, width: Option<usize>) -> String {
    let rest = text.trim_start();
    let indent = text.len() - rest.len();
    let Some(width) = width.filter(|width| text.chars().count() > *width) else {
        return text.to_owned();
    };
    let lines = wrapped(rest, width.saturating_sub(indent + 2));
    format!(
        "{}{}",
        " ".repeat(indent),
        lines.join(&format!("\n{}", " ".repeat(indent + 2)))
    )
}

/// The line with the colours of the states in it.
fn with_states(line: &str) -> String {
    let colour = |word: &str| match word {
        "refused" | "rejected" | "REFUSED" | "stalled" => Some(AnsiColor::Red),
        "behind" | "held" | "shadowed" | "rolling" | "pending" => Some(AnsiColor::Yellow),
        "live" | "accepted" => Some(AnsiColor::Green),
        _ => None,
    };
    let mut shown = String::with_capacity(line.len());
    for word in line.split_inclusive(' ') {
        let bare = word.trim_end();
        match colour(bare) {
            Some(colour) => {
                shown.push_str(&painted(bare, Style::new().fg_color(Some(colour.into()))));
                shown.push_str(&word[bare.len()..]);
            }
            None => shown.push_str(word),
        }
    }
    shown
}

pub(in crate::cli) fn painted(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(table: &Table, width: Option<usize>) -> String {
        anstream::adapter::strip_str(&table.render(width)).to_string()
    }

    #[test]
    fn names_are_cut_in_their_middle_and_states_are_not() {
        let mut table = Table::new([Column::name("PROXY"), Column::whole("STATE"), Column::number("REV")]);
        table.row(["edge-frankfurt-very-long-name-7", "refused", "1841"].map(str::to_owned));
        table.row(["edge-1\u{1b}", "live", "9"].map(str::to_owned));
        let whole = "PROXY                            STATE    REV\n\
                     edge-frankfurt-very-long-name-7  refused  1841\n\
                     edge-1\\u{1b}                      live        9";
        let lines = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        let found = plain(&table, None);
        assert_eq!(lines(&found)[1], lines(whole)[1], "{found}");
        let narrow = plain(&table, Some(30));
        assert!(narrow.lines().all(|line| line.chars().count() <= 30), "{narrow}");
        assert!(
            narrow.contains("edge-fr…-name-7") && narrow.contains("refused"),
            "{narrow}"
        );
        assert!(!narrow.contains('\u{1b}'));
    }

    #[test]
    fn a_sentence_is_wrapped_before_a_name_is_cut() {
        let mut table = Table::new([Column::name("DOCUMENT"), Column::sentence("REASON")]);
        table.row(
            [
                "routes/users-of-the-shop",
                "timeout: found 5, expected a duration with its unit",
            ]
            .map(str::to_owned),
        );
        let expected = "DOCUMENT                  REASON\n\
                        routes/users-of-the-shop  timeout: found 5, expected\n\
                        \x20                         a duration with its unit";
        let found = plain(&table, Some(53));
        let lines: Vec<&str> = found.lines().map(str::trim_end).collect();
        assert_eq!(lines, expected.lines().collect::<Vec<_>>());
        assert_eq!(wrapped("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrapped("~ a + b", 4), ["~ a", "+ b"]);
        assert_eq!(paragraph("  a bb ccc", Some(9)), "  a bb\n    ccc");
        assert_eq!(paragraph("  a bb ccc", None), "  a bb ccc");
    }

    #[test]
    fn a_spare_column_is_left_out_before_names_are_cut_short() {
        let mut table = Table::new([Column::name("PROXY"), Column::spare("LAST ACK"), Column::whole("ENVOY")]);
        table.row(["edge-1", "4m", "1.40.0"].map(str::to_owned));
        assert_eq!(
            plain(&table, Some(24)),
            "PROXY   LAST ACK  ENVOY\nedge-1        4m  1.40.0"
        );
        assert_eq!(plain(&table, Some(20)), "PROXY   ENVOY\nedge-1  1.40.0");
    }

    #[test]
    fn a_cut_text_keeps_both_ends() {
        assert_eq!(cut("abcdefgh", 5), "ab…gh");
        assert_eq!(cut("abcdefgh", 8), "abcdefgh");
    }
}
