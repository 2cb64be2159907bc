//! Tables: columns apart by two spaces, cut to a width in the middle of names and never in states.

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ContentArrangement};

/// Least width of a column that is cut.
const LEAST: usize = 8;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Column {
    head: &'static str,
    /// Whether its cells may be cut, in their middle.
    is_cut: bool,
    is_right: bool,
}

impl Column {
    /// A column whose cells are never cut.
    pub(in crate::cli) const fn whole(head: &'static str) -> Self {
        Self {
            head,
            is_cut: false,
            is_right: false,
        }
    }

    /// A column of names.
    pub(in crate::cli) const fn name(head: &'static str) -> Self {
        Self {
            head,
            is_cut: true,
            is_right: false,
        }
    }

    /// A column of numbers.
    pub(in crate::cli) const fn number(head: &'static str) -> Self {
        Self {
            head,
            is_cut: false,
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
        let widths = self.widths(width);
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        let has_head = self.columns.iter().any(|column| !column.head.is_empty());
        if has_head {
            table.set_header(self.columns.iter().map(|column| column.head).collect::<Vec<_>>());
        }
        for row in &self.rows {
            table.add_row(
                row.iter()
                    .zip(&widths)
                    .map(|(cell, width)| cut(cell, *width))
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
        while excess > 0 {
            let widest = widths
                .iter()
                .enumerate()
                .filter(|(index, width)| self.columns[*index].is_cut && **width > LEAST);
            let Some((index, _)) = widest.max_by_key(|(_, width)| **width) else {
                break;
            };
            widths[index] -= 1;
            excess -= 1;
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
    fn a_cut_text_keeps_both_ends() {
        assert_eq!(cut("abcdefgh", 5), "ab…gh");
        assert_eq!(cut("abcdefgh", 8), "abcdefgh");
    }
}
