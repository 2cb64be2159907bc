//! The loop's log lines about documents: a sentence and fields, once each.

use tracing::{debug, info, warn};

use crate::backend::{Event, Problem};
use crate::document::defaults::LegacyPath;
use crate::reconcile::plan::Verdict;
use crate::reconcile::world::{State, World};

/// Lines about refused documents of one plan.
const REFUSED_NAMED: usize = 20;

/// A list or a change of a root.
pub(super) fn event(prefix: &str, event: &Event) {
    match event {
        Event::Listed {
            revision,
            reason,
            entries,
        } => info!(
            prefix,
            revision,
            reason = reason.as_str(),
            keys = entries.len(),
            "Listed"
        ),
        Event::Changed { revision, changes } => debug!(prefix, revision, keys = changes.len(), "Changed"),
        _ => {}
    }
}

/// Something in the store that cannot be a document.
pub(super) fn problem(problem: &Problem) {
    let key = String::from_utf8_lossy(&problem.key);
    warn!(document.key = %key, place = problem.place, reason = problem.reason, "Rejected {key}");
}

/// Log once, at start, how the `path` of older route documents is read.
pub(super) fn older_forms(world: &World) {
    let meaning = match world.compiled().defaults().legacy_path {
        LegacyPath::Exact => "the whole path",
        LegacyPath::Prefix => "the path and what is below it",
    };
    info!(
        meaning,
        "`path` in route documents of the older form means {meaning} (`defaults`, field legacy_path)"
    );
}

/// The verdicts of a plan. A proxy may refuse thousands of documents at once: the first ones are named, the others
/// counted.
pub(super) fn verdicts(verdicts: &[Verdict]) {
    let is_refused = |verdict: &&Verdict| {
        let state = verdict.status.as_ref().map(|status| status.state);
        state == Some(State::Refused)
    };
    let (refused, others): (Vec<&Verdict>, Vec<_>) = verdicts.iter().partition(is_refused);
    let named = refused.iter().take(REFUSED_NAMED);
    others.iter().chain(named).for_each(|one| verdict(one));
    if let Some(left_out) = refused.len().checked_sub(REFUSED_NAMED).filter(|count| *count > 0) {
        warn!(
            left_out,
            "Refused more documents together with these; GET /api/v1/documents?state=refused lists all"
        );
    }
}

/// A verdict, as an operator reads it: once, where it was made.
fn verdict(verdict: &Verdict) {
    let Some(status) = &verdict.status else {
        info!(document.key = %verdict.key, "Removed {}", verdict.key);
        return;
    };
    let mod_revision = status.latest.as_ref().map(|text| text.mod_revision);
    let reason = status.reason.as_deref().unwrap_or_default();
    let path = status.path.as_deref().unwrap_or_default();
    match status.state {
        State::Rejected => warn!(
            document.key = &*status.full_key,
            document.mod_revision = mod_revision,
            document.path = path,
            reason,
            "Rejected {}, {}",
            verdict.key,
            if status.serving.is_some() {
                "the last good text serves"
            } else {
                "no earlier text serves"
            }
        ),
        State::Refused => warn!(
            document.key = &*status.full_key,
            document.mod_revision = mod_revision,
            // The words of a proxy, who may say anything; the API has all of them.
            reason = %format_args!("{reason:.240}"),
            "Refused {} by every proxy that answered, {}; a new text or a release ends this",
            verdict.key,
            if status.serving.is_some() {
                "the text before serves"
            } else {
                "no earlier text serves"
            }
        ),
        State::Held => warn!(
            document.key = &*status.full_key,
            document.mod_revision = mod_revision,
            reason,
            "Held {}",
            verdict.key
        ),
        State::Shadowed => warn!(
            document.key = &*status.full_key,
            document.mod_revision = mod_revision,
            reason,
            "Shadowed {}",
            verdict.key
        ),
        state => {
            debug!(
                document.key = &*status.full_key,
                document.mod_revision = mod_revision,
                "{} {}",
                state.as_str(),
                verdict.key
            );
            for warning in &status.warnings {
                warn!(
                    document.key = &*status.full_key,
                    document.mod_revision = mod_revision,
                    warning,
                    "Accepted {} with a warning",
                    verdict.key
                );
            }
        }
    }
}
