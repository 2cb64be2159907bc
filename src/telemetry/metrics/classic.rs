//! `OpenMetrics` text → the classic Prometheus text format.
//!
//! The two formats have the same series and differ in the lines about a metric. Classic text names a counter with its
//! `_total` and an info with its `_info`, has no type `info` and no `# UNIT`, and ends without `# EOF`.

use std::fmt::Write as _;

/// The classic text of the same metrics.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut help = ("", "");

    for line in text.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            classic.push_str(line);
            classic.push('\n');
            continue;
        };

        let mut words = comment.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            // Written after the type, which decides the suffix of the name.
            (Some("HELP"), Some(name), Some(sentence)) => help = (name, sentence),
            (Some("TYPE"), Some(name), Some(of_type)) => {
                let (suffix, of_type) = match of_type {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    same => ("", same),
                };
                if help.0 == name {
                    writeln!(classic, "# HELP {name}{suffix} {}", help.1).expect("a String takes everything");
                }
                writeln!(classic, "# TYPE {name}{suffix} {of_type}").expect("a String takes everything");
            }
            _ => {}
        }
    }

    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_are_named_as_their_series() {
        let open = "# HELP a_nacks NACKs.\n# TYPE a_nacks counter\na_nacks_total{type=\"routes\"} 0\n\
                    # HELP a_build The build.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
                    # HELP a_seconds Time.\n# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 0.5\n# EOF\n";
        let classic = "# HELP a_nacks_total NACKs.\n# TYPE a_nacks_total counter\na_nacks_total{type=\"routes\"} 0\n\
                       # HELP a_build_info The build.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
                       # HELP a_seconds Time.\n# TYPE a_seconds gauge\na_seconds 0.5\n";
        assert_eq!(from_open_metrics(open), classic);
    }
}
