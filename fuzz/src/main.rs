//! Fuzz targets, one binary: the variable `FUZZ_TARGET` names the target.
//!
//! | target | input | what must hold |
//! |---|---|---|
//! | `documents` | keys with texts | parse, check and compile; what is accepted decodes again |
//! | `requests` | steps of a client, with requests as bytes | a session as a value; an error is one sentence |
//! | `services` | a path and the bytes of a stream | the whole xDS port, load reports and client status included |
//! | `state` | documents, then damage to the files | what loads is what was saved |
//! | `configuration` | flags, variables and a file | a configuration, or sentences that say why not |
//!
//! Of every input: no panic, [`TIME`] and [`MEMORY`] at most, and sentences without control characters.

#![no_main]
#![allow(
    clippy::disallowed_methods,
    reason = "a target measures its inputs and is named by a variable"
)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libfuzzer_sys::{Corpus, fuzz_target};
use peak_alloc::PeakAlloc;

mod configuration;
mod documents;
mod requests;
mod services;
mod state;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The longest time of one input. The crate is compiled with little optimisation, and other targets run beside it.
const TIME: Duration = Duration::from_secs(10);
/// The most memory of one input, in bytes, with [`MEMORY_PER_BYTE`].
const MEMORY: usize = 64 * 1024 * 1024;
/// The same for each byte of the input.
const MEMORY_PER_BYTE: usize = 2000;
/// The longest sentence, in bytes.
const SENTENCE: usize = 8192;
/// Separates the parts of an input: a byte that is in no text.
const SEPARATOR: u8 = 0x1e;

type Target = fn(&[u8]);

/// The target of this process.
fn target() -> Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    *TARGET.get_or_init(|| match std::env::var("FUZZ_TARGET").as_deref() {
        Ok("documents") => documents::run,
        Ok("requests") => requests::run,
        Ok("services") => services::run,
        Ok("state") => state::run,
        Ok("configuration") => configuration::run,
        other => panic!("FUZZ_TARGET is {other:?}, expected a target"),
    })
}

fuzz_target!(|input: &[u8]| -> Corpus {
    // Tables that are made on first use are nobody's memory.
    static IS_WARM: OnceLock<()> = OnceLock::new();
    IS_WARM.get_or_init(|| target()(input));

    let (begun, before) = (Instant::now(), ALLOCATOR.current_usage());
    ALLOCATOR.reset_peak_usage();
    target()(input);
    let (time, memory) = (begun.elapsed(), ALLOCATOR.peak_usage().saturating_sub(before));
    assert!(time <= TIME, "took {time:?}");
    let most = MEMORY + MEMORY_PER_BYTE * input.len();
    assert!(memory <= most, "took {memory} bytes of memory, expected {most} at most");
    Corpus::Keep
});

/// The parts of an input.
fn parts(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|byte| *byte == SEPARATOR)
}

/// A message to a person is one line of bounded length.
fn check_sentence(sentence: &str) {
    assert!(!sentence.trim().is_empty(), "nothing is said");
    assert!(!sentence.contains(char::is_control), "control characters: {sentence:?}");
    assert!(sentence.len() <= SENTENCE, "{} bytes: {sentence:?}", sentence.len());
}
