//! Tables of fields: for each object of a document its fields, each with its shape, its default and its meaning.
//!
//! A table is the source of three things: the names that the decoder takes ([`super::decode`]), the JSON Schema, and
//! the tables of `docs/documents/` (both [`super::schema`]). The words of a [`Shape::Words`] are those of the decoder's
//! own list ([`words`]). The decoder checks a value more closely than its shape says: an address, the syntax of a
//! regex, two fields that exclude each other. `tests/golden/schema.rs` holds decoder and shapes together.

/// The fields of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    /// Tables that objects share, in the order of the names in a rejection.
    tables: &'static [&'static [Field]],
    /// The table of an object that shares none.
    own: &'static [Field],
    /// Names without a row, of a form that no operator writes.
    names: &'static [&'static str],
    /// Fields of the contract that are not built yet.
    later: &'static [&'static str],
    /// Whether a field of another name is taken, too.
    is_open: bool,
    /// Whether at least one field must be there.
    is_filled: bool,
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// Meaning, in Markdown.
    pub(super) about: &'static str,
    /// The value if the field is absent, in Markdown; empty: none.
    pub(super) default: &'static str,
    pub(super) is_required: bool,
}

/// The shape of a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// `true` or `false`.
    Flag,
    /// `true`.
    On,
    /// A whole number, least and most.
    Whole(i64, i64),
    /// A number.
    Number,
    /// A number from 0 to 100.
    Percent,
    /// One of a few numbers.
    Numbers(&'static [i64]),
    /// A duration with its unit.
    Duration,
    /// A duration with its unit, or `"none"`.
    DurationOrNone,
    /// A number of bytes with its unit, least and most.
    Size(u32, u32),
    /// One of a few words.
    Words(&'static [&'static str]),
    /// A text, in the words of a reader; perhaps with the regex of JSON Schema (ECMA-262) that it matches.
    Text(&'static str, Option<&'static str>),
    /// A list.
    List {
        /// Each entry.
        of: &'static Self,
        least: usize,
        most: usize,
        /// Whether no entry is there twice.
        once: bool,
    },
    /// An object with free names.
    Map(&'static Self),
    /// The same with at least one name.
    FilledMap(&'static Self),
    /// An object with these fields.
    Object(&'static Fields),
    /// An object with any of the names of these fields, each with a value of one shape.
    Each(&'static Fields, &'static Self),
    /// One of several shapes.
    AnyOf(&'static [Self]),
    /// An object of any content.
    Free,
    /// Any value.
    Any,
}

/// Whole numbers of 32 bits, and those above zero.
pub(super) const AMOUNT: Shape = Shape::Whole(0, U32);
pub(super) const COUNT: Shape = Shape::Whole(1, U32);
/// Whole numbers of 32 bits with a sign.
pub(super) const SIGNED: Shape = Shape::Whole(i32::MIN as i64, i32::MAX as i64);
pub(super) const PORT: Shape = Shape::Whole(1, u16::MAX as i64);
/// Any text, and any but the empty one.
/// The pattern of a text of at least one character.
pub(super) const NOT_EMPTY: Option<&str> = Some(r"[\s\S]");
pub(super) const STRING: Shape = Shape::Text("string", None);
pub(super) const TEXT: Shape = Shape::Text("text", NOT_EMPTY);
/// The name of a header.
pub(super) const HEADER: Shape = Shape::Text("name of a header", Some("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$"));
pub(super) const U32: i64 = u32::MAX as i64;

impl Fields {
    /// Fields of these names, of a form that no operator writes.
    pub(super) const fn new(names: &'static [&'static str]) -> Self {
        Self {
            tables: &[],
            own: &[],
            names,
            later: &[],
            is_open: false,
            is_filled: false,
        }
    }

    /// The fields of a table.
    pub(super) const fn of(own: &'static [Field]) -> Self {
        Self { own, ..Self::new(&[]) }
    }

    /// The fields of several tables.
    pub(super) const fn joined(tables: &'static [&'static [Field]]) -> Self {
        Self {
            tables,
            ..Self::new(&[])
        }
    }

    /// Further fields, of the contract and not built yet.
    pub(super) const fn later(self, later: &'static [&'static str]) -> Self {
        Self { later, ..self }
    }

    /// Takes fields of other names, too.
    pub(super) const fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    /// At least one field must be there.
    pub(super) const fn filled(self) -> Self {
        Self {
            is_filled: true,
            ..self
        }
    }

    /// Every row.
    pub(super) fn rows(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.tables.iter().copied().flatten().chain(self.own)
    }

    /// Every name.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.rows().map(|row| row.name).chain(self.names.iter().copied())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    pub(super) fn is_later(&self, name: &str) -> bool {
        self.later.contains(&name)
    }

    /// The names of fields that are not built yet.
    pub(super) fn reserved(&self) -> &'static [&'static str] {
        self.later
    }

    /// Whether at least one field must be there.
    pub(super) fn is_filled(&self) -> bool {
        self.is_filled
    }

    /// Whether a field of another name is taken, too.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }
}

impl Field {
    /// A field that may be absent.
    pub(super) const fn new(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self {
            name,
            shape,
            about,
            default: "",
            is_required: false,
        }
    }

    /// The field with the value that holds if it is absent.
    pub(super) const fn or(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// The field as one that must be there.
    pub(super) const fn required(self) -> Self {
        Self {
            is_required: true,
            ..self
        }
    }
}

impl Shape {
    /// A list of any length.
    pub(super) const fn list(of: &'static Self) -> Self {
        Self::List {
            of,
            least: 0,
            most: usize::MAX,
            once: false,
        }
    }

    /// A list of at least one entry.
    pub(super) const fn entries(of: &'static Self, most: usize) -> Self {
        Self::List {
            of,
            least: 1,
            most,
            once: false,
        }
    }
}

/// The words of a list of words with their meanings.
pub(super) const fn words<T, const N: usize>(list: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut words = [""; N];
    let mut at = 0;
    while at < N {
        words[at] = list[at].0;
        at += 1;
    }
    words
}
