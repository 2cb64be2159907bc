//! (owner writes this)
