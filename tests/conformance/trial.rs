//! A rule → a trial of the test runner, with a runtime of its own. A panic becomes a message with the transcript.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use super::client::Transcript;
use super::rule::{Context, Rule, Variant};
use super::table::Verdicts;
use super::target::Launch;

/// Longest time of a rule, with the wait for its server. A rule beyond this time hangs.
const LIMIT: Duration = Duration::from_secs(180);

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics are kept for the message of the trial instead of being printed in the midst of the others.
pub(crate) fn keep_panics() {
    panic::set_hook(Box::new(|info| {
        PANIC.with_borrow_mut(|kept| *kept = Some(info.to_string()));
    }));
}

/// The trial of a rule in one variant; its verdict goes to `verdicts`.
pub(crate) fn of(rule: &'static Rule, variant: Variant, launch: &Arc<dyn Launch>, verdicts: &Arc<Verdicts>) -> Trial {
    let (launch, verdicts) = (Arc::clone(launch), Arc::clone(verdicts));
    Trial::test(rule.trial(variant), move || {
        let outcome = run(rule, variant, &launch);
        verdicts.record(rule.id, variant, outcome.is_ok());
        outcome.map_err(Failed::from)
    })
}

/// Run a rule against servers of a kind.
///
/// # Errors
/// The panic of the rule, with the transcript.
pub(crate) fn run(rule: &Rule, variant: Variant, launch: &Arc<dyn Launch>) -> Result<(), String> {
    let transcript = Transcript::default();
    let context = Context {
        variant,
        launch: Arc::clone(launch),
        transcript: transcript.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let limited = async {
        tokio::time::timeout(LIMIT, (rule.run)(context))
            .await
            .expect("the rule ends in time")
    };
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(limited)));
    outcome.map_err(|_| {
        let said = PANIC
            .with_borrow_mut(Option::take)
            .unwrap_or_else(|| "it panicked".to_owned());
        format!("{said}\n{transcript}")
    })
}
