//! A change that one transaction cannot hold, in several: make before break.
//!
//! Each part is one revision and has its own intent. A part that is refused ends the change: the parts before it stay. If
//! the client repeats the request, the parts that are written stay as they are, and the others follow.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::json;

use super::super::problem::{Code, Problem};
use super::{Admin, Attempt, Change, Judged, Part, Target, Written, repeat, write_all};
use crate::document::key::{DocumentKey, Kind};
use crate::reconcile::run::now;

/// Most bytes of one change, keys and texts: 1.4 MiB. etcd takes 1.5 MiB by default, beside the intent.
const MOST_BYTES: usize = 1_468_006;

/// How many documents each part has, the documents in the order of the parts.
pub(super) struct Parts {
    sizes: Vec<usize>,
}

/// `None`: one transaction holds the change.
///
/// # Errors
/// The change is too large, and its author did not ask for parts.
pub(super) fn split(admin: &Admin, change: &Change, targets: &[Target<'_>]) -> Result<Option<Parts>, Problem> {
    // The undo of an unconfirmed change deletes the record of the change, too.
    let has_record = change.options.confirm_within.is_some() || change.options.record.is_some();
    let most = admin.max_txn_ops.saturating_sub(1 + usize::from(has_record)).max(1);
    let bytes = targets.iter().map(bytes_of).sum::<usize>();
    if targets.len() <= most && bytes <= MOST_BYTES {
        return Ok(None);
    }
    if change.options.confirm_within.is_some() && change.options.in_parts {
        let detail =
            "confirm_within: a change in several transactions cannot be undone as one; expected a smaller change";
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    if !change.options.in_parts {
        let detail = format!(
            "the change has {} documents and {bytes} bytes, expected at most {most} documents (--max-txn-ops less {}) and \
             {MOST_BYTES} bytes; \"in_parts\": true writes it in several transactions",
            targets.len(),
            admin.max_txn_ops - most
        );
        return Err(Problem::new(Code::TooLarge, detail));
    }

    let mut sizes = vec![0];
    let mut left = MOST_BYTES;
    let mut sorted: Vec<&Target<'_>> = targets.iter().collect();
    sorted.sort_by_key(|target| place_of(target));
    for target in sorted {
        let bytes = bytes_of(target);
        if let Some(size) = sizes
            .last_mut()
            .filter(|size| **size < most && (**size == 0 || bytes <= left))
        {
            *size += 1;
        } else {
            sizes.push(1);
            left = MOST_BYTES;
        }
        left = left.saturating_sub(bytes);
    }
    Ok(Some(Parts { sizes }))
}

fn bytes_of(target: &Target<'_>) -> usize {
    target.edit.full_key.len() + target.value.as_ref().map_or(0, bytes::Bytes::len)
}

/// The place of a document in a change in parts. A document that others name comes before these. Deletions come last, in
/// the opposite order.
fn place_of(target: &Target<'_>) -> (bool, u8, Reverse<u8>) {
    let rank = rank(&target.edit.key);
    match target.value {
        Some(_) => (false, rank, Reverse(0)),
        None => (true, 0, Reverse(rank)),
    }
}

fn rank(key: &DocumentKey) -> u8 {
    let of_xds = key.name.split('/').next().unwrap_or_default();
    match (key.kind, of_xds) {
        (Kind::Groups, _) => 0,
        (Kind::Secrets, _) | (Kind::Xds, "secrets") => 1,
        (Kind::Registries | Kind::Runtime, _) | (Kind::Xds, "runtime") => 2,
        (Kind::Clusters, _) | (Kind::Xds, "clusters") => 3,
        (Kind::Services, _) | (Kind::Xds, "endpoints") => 4,
        (Kind::Policies, _) | (Kind::Xds, "extension_configs") => 5,
        (Kind::Defaults, _) => 6,
        (Kind::Listeners, _) | (Kind::Xds, "listeners") => 7,
        (Kind::Routes | Kind::Xds | Kind::Unknown, _) => 8,
    }
}

/// Write the parts, one after the other.
pub(super) async fn write(
    admin: &Admin,
    change: &Change,
    mut targets: Vec<Target<'_>>,
    parts: Parts,
) -> Result<Written, Problem> {
    let order: BTreeMap<String, usize> = (change.edits.iter().enumerate())
        .map(|(number, edit)| (edit.full_key.clone(), number))
        .collect();
    targets.sort_by_key(place_of);
    let of = parts.sizes.len();
    let part = |number| Part {
        number,
        of,
        request_id: change.author.request_id.clone(),
    };

    let mut written = Written::default();
    let mut rest = targets.as_slice();
    for (number, size) in (1..).zip(parts.sizes) {
        let (targets_of_part, others) = rest.split_at(size.min(rest.len()));
        let part = part(number);
        if number == 1
            && repeat::find(admin, change, targets_of_part, Some(&part))
                .await?
                .is_none()
        {
            judge_whole(admin, change, &targets).await?;
        }
        match write_all(admin, change, targets_of_part, Some(&part)).await {
            Ok(more) => {
                written.revisions.extend(more.revisions);
                written.documents.extend(more.documents);
            }
            Err(problem) if written.revisions.is_empty() => return Err(problem),
            Err(problem) => return Err(failed(admin, &part, &problem, &written)),
        }
        rest = others;
    }
    written
        .documents
        .sort_by_key(|document| order.get(&document.full_key).copied());
    Ok(written)
}

/// Judge all parts together, before the first one is written.
async fn judge_whole(admin: &Admin, change: &Change, targets: &[Target<'_>]) -> Result<(), Problem> {
    let attempt = Attempt::new(admin, change, targets, None);
    let compared = attempt.compare(targets).await?;
    attempt.refuse_conditions(&compared)?;
    let (_turn, basis) = attempt.turn().await?;
    attempt.refuse_moved(&basis)?;
    Judged::of(&basis, &compared, now()).refuse(&compared, change.options.force, false)
}

fn failed(admin: &Admin, part: &Part, problem: &Problem, written: &Written) -> Problem {
    let detail = format!(
        "part {} of {} is refused, the parts before it are written: {}",
        part.number,
        part.of,
        problem.detail()
    );
    let answer = super::super::apply::answer(admin, written);
    Problem::new(Code::PartFailed, detail).after(json!(answer))
}
