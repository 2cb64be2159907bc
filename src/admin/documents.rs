//! `GET /api/v1/documents` and `GET /api/v1/documents/KIND/NAME`.

use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::answer::{Pieces, list, text};
use super::entry::{Effective, Entry, EntryWithValue, key_of, shown_of_secret, value};
use super::json::Json;
use super::problem::{Code, Problem};
use super::query::{Page, Pairs, parse_flag, reject_unknown_params, values};
use super::refused::NackedDocument;
use super::{Admin, earlier, refused};
use crate::backend;
use crate::document::key::{DocumentKey, Kind};
use crate::journal::book::Book;
use crate::reconcile::world::{State, Status, World};

/// KIND and NAME of a path; NAME is empty if the path has none.
pub(super) fn kind_and_name(path: Result<Path<Vec<String>>, PathRejection>) -> Result<(String, String), Problem> {
    let Path(mut parts) = path?;
    let name = if parts.len() > 1 { parts.pop() } else { None };
    Ok((parts.pop().unwrap_or_default(), name.unwrap_or_default()))
}

pub(super) async fn all(Shared(admin): Shared<Admin>, query: Pairs) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["state", "kind", "q", "limit", "after", "revision"])?;
    let states: Vec<State> = values(&query, "state").map(state_of).collect::<Result<_, _>>()?;
    let kinds: Vec<Kind> = values(&query, "kind").map(kind_of).collect::<Result<_, _>>()?;
    let wanted = Wanted {
        states,
        kinds,
        text: values(&query, "q").last().unwrap_or_default().to_owned(),
    };
    let page = Page::of(&query)?;
    let after = page.after(Place::read)?;

    let earlier = earlier::asked(&admin, &query).await?;
    let (world, refused) = match earlier {
        // The NACKs are about the texts of now.
        Some(earlier) => (Arc::clone(&earlier.world), Arc::default()),
        None => (admin.world.load_full(), Arc::new(refused::documents(&admin))),
    };
    let (shown, limit) = (admin.journal.shown(), page.limit());
    let (world_of, refused_of) = (Arc::clone(&world), Arc::clone(&refused));
    let lacks_zones = admin.fleet.lacks_zones();
    // The search reads every document, so a thread that serves no streams makes it.
    let items = iter::once_with(move || wanted.find(&world, &refused, after.as_ref(), limit)).flatten();

    let pieces = list(
        "{\"documents\":[".to_owned(),
        &page,
        items,
        |item| item.place.to_string(),
        move |item| -> Pieces {
            let entry = item
                .status(&world_of)
                .map(|status| text(&entry_of(&world_of, status, &refused_of, &shown.book, lacks_zones)));
            Box::new(entry.into_iter().map(|entry| entry.map(Into::into)))
        },
    );
    admin.answers.json(pieces).await
}

/// The filters of a request.
struct Wanted {
    states: Vec<State>,
    kinds: Vec<Kind>,
    /// Part of the full key.
    text: String,
}

/// An entry of a page.
struct Item {
    place: Place,
    /// `None`: the document of the key. Otherwise a further file of the key, by its index among the problems.
    problem: Option<usize>,
}

impl Item {
    fn status<'a>(&self, world: &'a World) -> Option<&'a Status> {
        match self.problem {
            None => world.document(&self.place.key),
            Some(index) => world.problems().nth(index),
        }
    }
}

impl Wanted {
    /// The first entries after a place, one more than the page has: that shows whether there is a next page.
    fn find(
        &self,
        world: &World,
        refused: &BTreeMap<DocumentKey, NackedDocument>,
        after: Option<&Place>,
        limit: usize,
    ) -> Vec<Item> {
        let is_wanted = |(status, _): &(&Status, Option<usize>)| {
            (self.kinds.is_empty() || self.kinds.contains(&status.key.kind))
                && status.full_key.contains(&self.text)
                && (self.states.is_empty() || self.states.contains(&refused::state(refused, status)))
        };
        let problems = world
            .problems()
            .enumerate()
            .map(|(index, status)| (status, Some(index)));
        let all = world.documents().map(|status| (status, None)).chain(problems);
        let mut found: Vec<_> = all.filter(is_wanted).collect();
        // A stable sort keeps a document before the further files of its key.
        found.sort_by(|(one, _), (other, _)| one.key.cmp(&other.key));

        let same_key = found.chunk_by(|(one, _), (other, _)| one.key == other.key);
        let items = same_key.flat_map(|entries| {
            let numbered = entries.iter().enumerate();
            numbered.map(|(number, (status, problem))| {
                let key = status.key.clone();
                Item {
                    place: Place { key, number },
                    problem: *problem,
                }
            })
        });
        let rest = items.skip_while(|item| after.is_some_and(|after| item.place <= *after));
        rest.take(limit + 1).collect()
    }
}

/// The place of an entry in the list of documents: its key, and its number among the entries of this key.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: DocumentKey,
    number: usize,
}

impl Place {
    /// From the text of a cursor.
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let number = parts.next()?.parse().ok()?;
        let kind = kind_of(parts.next()?).ok()?;
        let key = DocumentKey::new(kind, parts.next()?);
        Some(Self { key, number })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.number, self.key.kind, self.key.name)
    }
}

pub(super) async fn one(
    Shared(admin): Shared<Admin>,
    path: Result<Path<Vec<String>>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["effective", "revision"])?;
    let with_effective = parse_flag(&query, "effective")?;
    let (kind, name) = kind_and_name(path)?;
    let key = key_of(&kind, &name)?;
    let earlier = earlier::asked(&admin, &query).await?;
    let (world, refused) = match &earlier {
        Some(earlier) => (Arc::clone(&earlier.world), BTreeMap::new()),
        None => (admin.world.load_full(), refused::documents(&admin)),
    };
    let full_key = world.options().layout.full_key(&key);
    let status = world
        .document(&key)
        .or_else(|| world.problems().find(|status| status.key == key));
    let status = status.ok_or_else(|| Problem::no_document(&key).of_key(full_key))?;
    let shown = admin.journal.shown();
    let entry = entry_of(&world, status, &refused, &shown.book, admin.fleet.lacks_zones());
    let accepted = world.compiled().accepted(&key);
    let secret = accepted.and_then(|accepted| accepted.document.as_secret());
    let body = Json(EntryWithValue {
        entry,
        value: value(status),
        secret: secret.map(shown_of_secret),
        effective: with_effective.then(|| effective(&world, &key)),
    });
    Ok(match etag(&admin, status) {
        Some(etag) => ([(header::ETAG, etag)], body).into_response(),
        None => body.into_response(),
    })
}

/// The entry of a document, with the warning that depends on the connected proxies.
fn entry_of<'a>(
    world: &World,
    status: &'a Status,
    refused: &BTreeMap<DocumentKey, NackedDocument>,
    book: &Book,
    lacks_zones: bool,
) -> Entry<'a> {
    let endpoints = world.compiled().endpoint_counts(&status.key);
    let entry = Entry::of(status, refused).by(status, book).with_endpoints(endpoints);
    if lacks_zones && world.compiled().is_zone_aware(&status.key) {
        return entry.with_warning(
            "lb.locality: zone_aware has no effect, because no connected proxy reports its zone (node.locality.zone)",
        );
    }
    entry
}

/// The policies that hold for a document.
fn effective(world: &World, key: &DocumentKey) -> Vec<Effective> {
    let policies = world.compiled().effective_policies(key);
    policies.into_iter().map(Effective::from).collect()
}

/// The `ETag` of a document's latest text; `None` if the document was deleted.
fn etag(admin: &Admin, status: &Status) -> Option<String> {
    let text = status.latest.as_ref()?;
    let entry = backend::Entry {
        key: status.full_key.as_bytes().to_vec().into(),
        value: text.value.clone(),
        create_revision: text.create_revision,
        mod_revision: text.mod_revision,
        leased: text.leased,
    };
    Some(format!("\"{}\"", admin.backend.etag(&entry)))
}

fn state_of(word: &str) -> Result<State, Problem> {
    let known = State::ALL.into_iter().find(|state| state.as_str() == word);
    known.ok_or_else(|| {
        let states = State::ALL.map(State::as_str).join(", ");
        Problem::new(
            Code::InvalidRequest,
            format!("there is no state `{word}`, expected one of {states}"),
        )
    })
}

fn kind_of(word: &str) -> Result<Kind, Problem> {
    let unknown = Some(Kind::Unknown).filter(|kind| kind.as_str() == word);
    Kind::from_word(word).or(unknown).ok_or_else(|| {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        Problem::new(
            Code::InvalidRequest,
            format!("there is no kind `{word}`, expected one of {kinds}"),
        )
    })
}
