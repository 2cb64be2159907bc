//! Results for people: tables, and times as ages.

pub(super) mod age;
pub(super) mod changes;
pub(super) mod table;
