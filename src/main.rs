//! Arguments → a command → an exit code.

use std::process::ExitCode;

/// Gives the memory of a burst back to the system within seconds (docs/decisions/010).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    chancery::cli::run(std::env::args_os())
}
