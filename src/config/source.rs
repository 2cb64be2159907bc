//! Gathers the texts of all settings: a flag wins over a variable, a variable over the file.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::Mistake;
use super::setting::{CONFIG, SETTINGS, Setting, Takes, VARIABLE_PREFIX};
use super::{CLIENT_SERVER, SECRET_KEYS};

/// Least similarity (Jaro-Winkler) of an unknown name to a known one for the hint "did you mean".
const SIMILAR: f64 = 0.8;

/// The flags as given, by name, values unparsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags(BTreeMap<&'static str, Vec<String>>);

impl Flags {
    /// The given flags of a command that has [`SETTINGS`] and [`CONFIG`], or some of them.
    #[must_use]
    pub fn from_matches(matches: &ArgMatches) -> Self {
        let given = |setting: &Setting| {
            let values = matches.try_get_many::<String>(setting.name).ok()??;
            Some((setting.name, values.cloned().collect()))
        };
        Self(std::iter::once(&CONFIG).chain(SETTINGS).filter_map(given).collect())
    }
}

/// A variable of this process that is no setting of `chancery serve`; `None`: absent or empty.
#[must_use]
pub fn process_variable(name: &str) -> Option<String> {
    let (_, value) = std::env::vars_os().find(|(other, _)| other == name)?;
    Some(value.to_string_lossy().into_owned()).filter(|value| !value.trim().is_empty())
}

/// The `CHANCERY_*` variables of this process. Bytes that are not UTF-8 are replaced; the check of the value then
/// fails.
#[must_use]
pub fn process_environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .collect()
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FoundIn {
    Flag(String),
    Variable(String),
    File { key: String, path: PathBuf },
}

impl fmt::Display for FoundIn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => formatter.write_str(flag),
            Self::Variable(variable) => formatter.write_str(variable),
            Self::File { key, path } => write!(formatter, "{key} in {}", path.display()),
        }
    }
}

/// The texts given for one setting by the source that wins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    texts: Vec<String>,
    found_in: FoundIn,
}

/// The texts that were given, by setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Values {
    given: BTreeMap<&'static str, Given>,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
}

impl Values {
    /// The texts of a setting; `None` if none was given.
    pub(super) fn texts(&self, name: &str) -> Option<&[String]> {
        self.given.get(name).map(|given| given.texts.as_slice())
    }

    /// The source of a setting; its flag if none was given.
    pub(super) fn found_in(&self, name: &str) -> String {
        self.given
            .get(name)
            .map_or_else(|| format!("--{name}"), |given| given.found_in.to_string())
    }
}

/// Merge the sources: for each setting, the first source with a text wins.
pub(super) fn gather(
    flags: &Flags,
    environment: &BTreeMap<String, String>,
    read_file: &impl Fn(&Path) -> io::Result<String>,
) -> (Values, Vec<Mistake>) {
    let mut values = Values::default();
    let mut mistakes = Vec::new();

    if let Some((path, found_in)) = config_file(flags, environment) {
        match read_config_file(&path, read_file) {
            Ok(table) => from_file(&path, table, &mut values, &mut mistakes),
            Err(reason) => mistakes.push(Mistake { found_in, reason }),
        }
        values.file = Some(path);
    }

    from_environment(environment, &mut values, &mut mistakes);

    for (name, texts) in &flags.0 {
        if let Some(setting) = Setting::named(name) {
            let found_in = FoundIn::Flag(setting.flag());
            values.given.insert(
                setting.name,
                Given {
                    texts: split(setting, texts.clone()),
                    found_in,
                },
            );
        }
    }

    (values, mistakes)
}

fn config_file(flags: &Flags, environment: &BTreeMap<String, String>) -> Option<(PathBuf, String)> {
    let flag = flags
        .0
        .get(CONFIG.name)
        .and_then(|texts| texts.first())
        .map(|text| (text, CONFIG.flag()));
    let variable = || {
        environment
            .get(&CONFIG.variable())
            .map(|text| (text, CONFIG.variable()))
    };
    flag.or_else(variable)
        .map(|(text, found_in)| (PathBuf::from(text), found_in))
}

fn read_config_file(path: &Path, read_file: &impl Fn(&Path) -> io::Result<String>) -> Result<toml::Table, String> {
    let text = read_file(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        format!("{} is not TOML, line {line}: {}", path.display(), error.message())
    })
}

fn from_file(path: &Path, table: toml::Table, values: &mut Values, mistakes: &mut Vec<Mistake>) {
    for (key, value) in table {
        let found_in = FoundIn::File {
            key: key.clone(),
            path: path.to_owned(),
        };

        let Some(setting) = Setting::named(&key.replace('_', "-")) else {
            let names = SETTINGS.iter().map(|setting| setting.name.to_owned());
            mistakes.push(Mistake {
                found_in: found_in.to_string(),
                reason: unknown("key", &key, names),
            });
            continue;
        };

        match texts_of(value) {
            Ok(_) if values.given.contains_key(setting.name) => mistakes.push(Mistake {
                found_in: found_in.to_string(),
                reason: format!("`{}` is written twice, with `-` and with `_`", setting.name),
            }),
            Ok(texts) => {
                values.given.insert(
                    setting.name,
                    Given {
                        texts: split(setting, texts),
                        found_in,
                    },
                );
            }
            Err(reason) => mistakes.push(Mistake {
                found_in: found_in.to_string(),
                reason,
            }),
        }
    }
}

/// A TOML value as the text of a flag.
fn texts_of(value: toml::Value) -> Result<Vec<String>, String> {
    match value {
        toml::Value::String(text) => Ok(vec![text]),
        toml::Value::Integer(number) => Ok(vec![number.to_string()]),
        toml::Value::Float(number) => Ok(vec![number.to_string()]),
        toml::Value::Boolean(truth) => Ok(vec![truth.to_string()]),
        toml::Value::Array(items) => {
            let texts: Result<Vec<Vec<String>>, String> = items.into_iter().map(texts_of).collect();
            Ok(texts?.concat())
        }
        other => Err(format!(
            "found a {}, expected a string, a number, true, false or a list",
            other.type_str()
        )),
    }
}

fn from_environment(environment: &BTreeMap<String, String>, values: &mut Values, mistakes: &mut Vec<Mistake>) {
    for (variable, text) in environment {
        if !variable.starts_with(VARIABLE_PREFIX) || *variable == CONFIG.variable() {
            continue;
        }
        if variable == CLIENT_SERVER {
            continue;
        }
        if variable == SECRET_KEYS {
            let given = Given {
                texts: vec![text.clone()],
                found_in: FoundIn::Variable(variable.clone()),
            };
            values.given.insert(SECRET_KEYS, given);
            continue;
        }
        let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == *variable) else {
            let names = SETTINGS.iter().chain([&CONFIG]).map(Setting::variable);
            let names = names.chain([SECRET_KEYS.to_owned()]);
            mistakes.push(Mistake {
                found_in: variable.clone(),
                reason: unknown("variable", variable, names),
            });
            continue;
        };
        let found_in = FoundIn::Variable(variable.clone());
        values.given.insert(
            setting.name,
            Given {
                texts: split(setting, vec![text.clone()]),
                found_in,
            },
        );
    }
}

/// `a,b` is two values if the setting takes several.
fn split(setting: &Setting, texts: Vec<String>) -> Vec<String> {
    match setting.takes {
        Takes::Many(_) => texts
            .iter()
            .flat_map(|text| text.split(','))
            .map(|text| text.trim().to_owned())
            .collect(),
        Takes::One(_) | Takes::Switch => texts,
    }
}

fn unknown(what: &str, found: &str, known: impl Iterator<Item = String>) -> String {
    let wanted = found.replace('_', "-").to_lowercase();
    let nearest = known
        .map(|name| {
            (
                strsim::jaro_winkler(&name.replace('_', "-").to_lowercase(), &wanted),
                name,
            )
        })
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(likeness, _)| *likeness >= SIMILAR);
    match nearest {
        Some((_, name)) => format!("unknown {what}, did you mean `{name}`?"),
        None => format!("unknown {what}; `chancery serve --help` lists all"),
    }
}
