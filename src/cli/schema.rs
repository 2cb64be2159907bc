//! `chancery schema`: the fields of documents, as JSON Schema for editors and as a table for people.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use super::{WRONG_USAGE, complain, print};
use crate::document::schema::{self, Place, Row, plain};

pub(super) const NAME: &str = "schema";

const LONG_ABOUT: &str = "Print the JSON Schema (draft 2020-12) of all documents, of one kind, or of one field.

Lists, maps and alternatives are stepped through: routes.match.headers.not. A document may name its schema in a field \
\"$schema\", which editors read and the server ignores.";

const AFTER_HELP: &str = "Examples:
  chancery schema routes > routes.schema.json
  chancery schema -o table clusters.health_check";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Print the fields of documents, as JSON Schema or as a table")
        .long_about(LONG_ABOUT)
        .after_help(AFTER_HELP)
        .arg(
            Arg::new("path")
                .value_name("KIND[.FIELD]")
                .help("A kind of documents, or a field of one"),
        )
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("json|table")
                .value_parser(["json", "table"])
                .default_value("json")
                .help("JSON Schema, or lines for people"),
        )
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let path = matches.get_one::<String>("path");
    let is_table = matches
        .get_one::<String>("output")
        .is_some_and(|output| output == "table");
    let Some(path) = path else {
        match is_table {
            true => schema::kinds().for_each(print),
            false => print(format_args!("{:#}", schema::of_all())),
        }
        return ExitCode::SUCCESS;
    };

    match schema::find(path) {
        Ok(place) if is_table => print(table(path, &place)),
        Ok(place) => print(format_args!("{:#}", place.json_schema(path))),
        Err(reason) => {
            complain(reason);
            return ExitCode::from(WRONG_USAGE);
        }
    }
    ExitCode::SUCCESS
}

/// The field itself, and one table for each object that it can be.
fn table(path: &str, place: &Place) -> String {
    let mut parts = vec![path.to_owned()];
    parts.extend(place.row().map(|row| {
        let [_, shape, default, about] = cells(&row);
        format!("{about}\nShape: {shape}\nDefault: {default}")
    }));
    let rows = place.tables().into_iter().map(|table| table.rows(&|_| false));
    parts.extend(rows.map(|rows| lines(&rows)));
    parts.join("\n\n")
}

fn cells(row: &Row) -> [String; 4] {
    [
        row.path.clone(),
        plain(&row.shape),
        plain(&row.default),
        plain(row.about),
    ]
}

fn lines(rows: &[Row]) -> String {
    let head = ["FIELD", "SHAPE", "DEFAULT", "MEANING"].map(str::to_owned);
    let all: Vec<[String; 4]> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let width = |column: usize| all.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let line = |[name, shape, default, about]: &[String; 4]| {
        let [first, second, third] = widths;
        format!("{name:first$}  {shape:second$}  {default:third$}  {about}")
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_field_and_the_fields_below_it() {
        let path = "clusters.lb.ring";
        let expected = "clusters.lb.ring

Size of the ring; only with ring_hash
Shape: object
Default: none

FIELD  SHAPE         DEFAULT  MEANING
min    1 to 8388608  1024     Least entries of the ring
max    1 to 8388608  8388608  Most entries of the ring";
        assert_eq!(
            schema::find(path).map(|place| table(path, &place)),
            Ok(expected.to_owned())
        );
    }
}
