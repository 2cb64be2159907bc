//! Composition root.

use crate::config::{Config, Flags};

/// Run the server until it is asked to stop; `flags` are for reading the configuration again.
///
/// # Errors
/// What could not be bound, or the stage that failed.
pub async fn serve(config: Config, flags: Flags) -> anyhow::Result<()> {
    let _ = (config, flags);
    anyhow::bail!("not composed yet")
}
