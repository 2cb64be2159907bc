//! Answers that may be large: written piece by piece, a few at a time.
//!
//! A list grows with the inventory or the fleet, and a client may leave it unread. So:
//!
//! - An answer is an iterator of pieces. The next pieces are made when the client has read the last ones, on a thread
//!   that serves no streams, [`BUILDERS`] at a time.
//! - [`AT_A_TIME`] answers of more than one part are open at a time. A further request waits [`SLOT_WITHIN`] for a
//!   place.
//! - The JSON of a large resource exists once, however many answers have it ([`Answers::rendered`]).
//! - An answer ends after [`READ_WITHIN`], read or not. [`super::server`] closes a connection that reads nothing at
//!   all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::unfold;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::json;
use super::limits::Limits;
use super::problem::{Code, Problem};
use super::query::Page;
use crate::fleet::limit::{Limit, Reached};

/// Answers of more than one part at a time.
const AT_A_TIME: usize = 32;
/// The wait for a place among them.
const SLOT_WITHIN: Duration = Duration::from_secs(15);
/// Parts that are made at the same time.
const BUILDERS: usize = 2;
/// A part is sent when it has this many bytes.
const PART: usize = 64 * 1024;
/// The longest time in which a client reads an answer.
const READ_WITHIN: Duration = Duration::from_secs(300);
/// The JSON of all large resources that are being read, in bytes. One more may come on top.
const RENDERED_MAX: usize = 256 * 1024 * 1024;

/// The pieces of an answer.
pub(super) type Pieces = Box<dyn Iterator<Item = Result<Bytes, Problem>> + Send>;

/// Makes large answers. All clones are one.
#[derive(Debug, Clone)]
pub struct Answers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    slots: Arc<Semaphore>,
    builders: Arc<Semaphore>,
    rendered: Mutex<HashMap<String, Arc<Slot>>>,
    rendered_bytes: Arc<AtomicUsize>,
    limits: Limits,
}

/// The JSON of one large resource, while somebody reads it.
type Slot = Mutex<Weak<Rendered>>;

#[derive(Debug)]
struct Rendered {
    json: String,
    /// The sum that the JSON counts in.
    sum: Arc<AtomicUsize>,
}

impl Drop for Rendered {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.json.len(), Ordering::Relaxed);
    }
}

/// Shares the JSON with every answer.
struct Reader(Arc<Rendered>);

impl AsRef<[u8]> for Reader {
    fn as_ref(&self) -> &[u8] {
        self.0.json.as_bytes()
    }
}

impl Answers {
    /// `reached` counts the answers that are refused.
    #[must_use]
    pub fn new(reached: Arc<Reached>) -> Self {
        Self(Arc::new(Shared {
            slots: Arc::new(Semaphore::new(AT_A_TIME)),
            builders: Arc::new(Semaphore::new(BUILDERS)),
            rendered: Mutex::default(),
            rendered_bytes: Arc::default(),
            limits: Limits::new(reached),
        }))
    }

    /// The limits that were reached.
    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// A JSON answer. An error in its first part is the answer instead; a later one cuts the answer short.
    pub(super) async fn json(&self, pieces: Pieces) -> Result<Response, Problem> {
        let (first, rest) = self.build(pieces).await?;
        let body = match rest {
            None => Body::from(first),
            Some(rest) => {
                let open = Open {
                    answers: self.clone(),
                    _slot: self.slot().await?,
                    deadline: Instant::now() + READ_WITHIN,
                    first,
                    rest: Some(rest),
                };
                Body::from_stream(unfold(Some(open), Open::next))
            }
        };

        let mut response = Response::new(body);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok(response)
    }

    /// Bound an answer that was made whole: if it has more than one part, it takes a place until it is read.
    pub(super) async fn bounded(&self, response: Response) -> Result<Response, Problem> {
        if response
            .body()
            .size_hint()
            .exact()
            .is_none_or(|size| size <= PART as u64)
        {
            return Ok(response);
        }
        let slot = self.slot().await?;
        Ok(response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                // The place is free when the body is dropped.
                let _slot = &slot;
                frame
            }))
        }))
    }

    async fn slot(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let slot = Arc::clone(&self.0.slots).acquire_owned();
        if let Ok(Ok(slot)) = timeout(SLOT_WITHIN, slot).await {
            return Ok(slot);
        }
        self.0.limits.on_reached(Limit::AdminAnswers);
        let detail = format!("{AT_A_TIME} large answers are being read; ask again, or for less with `limit`");
        Err(Problem::new(Code::Busy, detail))
    }

    /// Make the next part. The pieces are `None` once all of them are made.
    async fn build(&self, mut pieces: Pieces) -> Result<(Bytes, Option<Pieces>), Problem> {
        let builder = Arc::clone(&self.0.builders).acquire_owned().await;
        let build = move || {
            let _builder = builder;
            let mut part = Vec::new();
            loop {
                match pieces.next().transpose()? {
                    None => return Ok((Bytes::from(part), None)),
                    // A large piece is sent as it is.
                    Some(piece) if part.is_empty() && piece.len() >= PART => return Ok((piece, Some(pieces))),
                    Some(piece) if part.len() + piece.len() < PART => part.extend_from_slice(&piece),
                    Some(piece) => {
                        let pieces: Pieces = Box::new(std::iter::once(Ok(piece)).chain(pieces));
                        return Ok((Bytes::from(part), Some(pieces)));
                    }
                }
            }
        };

        tokio::task::spawn_blocking(build)
            .await
            .map_err(|error| Problem::new(Code::Internal, error.to_string()))?
    }

    /// The JSON of a large resource, made by `render` unless an answer has it. `key` names the resource and its
    /// version.
    pub(super) fn rendered(
        &self,
        key: String,
        render: impl FnOnce() -> Result<String, Problem>,
    ) -> Result<Bytes, Problem> {
        let shared = &self.0;
        let slot = {
            let mut rendered = shared.rendered.lock();
            rendered.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.lock().strong_count() > 0);
            Arc::clone(rendered.entry(key).or_default())
        };

        // Two answers do not make the same JSON at the same time.
        let mut held = slot.lock();
        if let Some(rendered) = held.upgrade() {
            return Ok(Bytes::from_owner(Reader(rendered)));
        }
        if shared.rendered_bytes.load(Ordering::Relaxed) > RENDERED_MAX {
            shared.limits.on_reached(Limit::AdminAnswers);
            let detail = "the resources that are being read take too much memory; ask again later";
            return Err(Problem::new(Code::Busy, detail));
        }

        let json = render()?;
        shared.rendered_bytes.fetch_add(json.len(), Ordering::Relaxed);
        let rendered = Arc::new(Rendered {
            json,
            sum: Arc::clone(&shared.rendered_bytes),
        });
        *held = Arc::downgrade(&rendered);
        Ok(Bytes::from_owner(Reader(rendered)))
    }
}

/// An answer of which a part was made, and that is not at its end.
struct Open {
    answers: Answers,
    _slot: OwnedSemaphorePermit,
    deadline: Instant,
    /// Made and not sent.
    first: Bytes,
    rest: Option<Pieces>,
}

impl Open {
    /// The next frame of the body.
    async fn next(open: Option<Self>) -> Option<(Result<Bytes, axum::Error>, Option<Self>)> {
        let mut open = open?;
        if Instant::now() > open.deadline {
            open.answers.limits().on_reached(Limit::AdminUnread);
            let error = format!("the answer was not read within {} s", READ_WITHIN.as_secs());
            return Some((Err(axum::Error::new(error)), None));
        }

        if open.first.is_empty() {
            match open.answers.build(open.rest.take()?).await {
                Ok((first, rest)) => (open.first, open.rest) = (first, rest),
                Err(error) => {
                    warn!(error = error.detail(), "Answer of the admin API was cut short");
                    return Some((Err(axum::Error::new(error.detail().to_owned())), None));
                }
            }
        }

        // A large piece is not copied.
        let frame = open.first.split_to(open.first.len().min(PART));
        Some((Ok(frame), Some(open)))
    }
}

/// The pieces of one page of a list: `head`, the elements with commas between them, the cursor as `next`.
pub(super) fn list<Item: Send + 'static>(
    head: String,
    page: &Page,
    items: impl Iterator<Item = Item> + Send + 'static,
    place: impl Fn(&Item) -> String + Send + 'static,
    element: impl Fn(Item) -> Pieces + Send + 'static,
) -> Pieces {
    let (limit, mut items) = (page.limit(), items.peekable());
    let (mut count, mut last) = (0, None);
    let mut current: Pieces = Box::new(std::iter::once(Ok(Bytes::from(head))));
    let mut ended = false;
    Box::new(std::iter::from_fn(move || {
        loop {
            if let Some(piece) = current.next() {
                return Some(piece);
            }
            if ended {
                return None;
            }
            let Some(item) = items.next_if(|_| count < limit) else {
                ended = true;
                let next = last.take().filter(|_| items.peek().is_some()).map(Page::cursor);
                current = Box::new(std::iter::once(
                    text(&next).map(|next| format!("],\"next\":{next}}}").into()),
                ));
                continue;
            };
            if count + 1 == limit {
                last = Some(place(&item));
            }
            let comma = if count > 0 {
                Some(Ok(Bytes::from_static(b",")))
            } else {
                None
            };
            current = Box::new(comma.into_iter().chain(element(item)));
            count += 1;
        }
    }))
}

/// A value as JSON.
pub(super) fn text(value: &impl Serialize) -> Result<String, Problem> {
    json::to_text(value).map_err(|error| Problem::new(Code::Internal, error.to_string()))
}

/// A JSON object without its closing brace, to which fields are added.
pub(super) fn open_object(value: &impl Serialize) -> Result<String, Problem> {
    let mut text = text(value)?;
    text.pop();
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str) -> Pieces {
        Box::new(std::iter::once(Ok(Bytes::from(text.to_owned()))))
    }

    fn joined(pieces: Pieces) -> String {
        let parts: Vec<Bytes> = pieces.map(|piece| piece.unwrap()).collect();
        String::from_utf8(parts.concat()).unwrap()
    }

    #[test]
    fn a_list_is_one_json_text_with_a_cursor_while_there_is_more() {
        let of = |count: usize, limit: &str| {
            let page = Page::of(&[("limit".to_owned(), limit.to_owned())]).unwrap();
            let items = (0..count).map(|number| number.to_string());
            joined(list("{\"all\":[".to_owned(), &page, items, String::clone, |item| {
                piece(&item)
            }))
        };
        assert_eq!(of(0, "2"), r#"{"all":[],"next":null}"#);
        assert_eq!(of(2, "2"), r#"{"all":[0,1],"next":null}"#);
        assert_eq!(of(3, "2"), r#"{"all":[0,1],"next":"MQ"}"#);
    }

    #[tokio::test]
    async fn an_answer_is_made_as_it_is_read() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let pieces = (0..1000).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from(vec![b'x'; 1024]))
        });
        let answers = Answers::new(Arc::default());
        let mut body = answers.json(Box::new(pieces)).await.unwrap().into_body();
        assert!(made.load(Ordering::Relaxed) <= PART / 1024);
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().into_data().unwrap().len();
            assert!(made.load(Ordering::Relaxed) * 1024 <= read + 2 * PART);
            assert!(read == 1000 * 1024 || answers.0.slots.available_permits() == AT_A_TIME - 1);
        }
        assert_eq!(read, 1000 * 1024);
        assert_eq!(answers.0.slots.available_permits(), AT_A_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_have_places_and_small_ones_need_none() {
        let answers = Answers::new(Arc::default());
        let large = || -> Pieces { Box::new((0..3).map(|_| Ok(Bytes::from(vec![b'x'; PART])))) };
        let mut open = Vec::new();
        for _ in 0..AT_A_TIME {
            open.push(answers.json(large()).await.unwrap());
        }
        let refused = answers.json(large()).await.unwrap_err();
        assert!(refused.detail().starts_with("32 large answers are being read"));
        assert_eq!(answers.limits().reached().of(Limit::AdminAnswers), 1);
        assert!(answers.json(piece("[]")).await.is_ok());
        let whole = Response::new(Body::from(vec![b'x'; PART + 1]));
        assert!(answers.bounded(whole).await.is_err());
        open.pop();
        assert!(answers.json(large()).await.is_ok());
        assert_eq!(open.len(), AT_A_TIME - 1);
    }

    #[test]
    fn the_json_of_a_resource_exists_once_and_only_while_it_is_read() {
        let answers = Answers::new(Arc::default());
        let render = || answers.rendered("a".to_owned(), || Ok("{}".to_owned())).unwrap();
        let (one, other) = (render(), render());
        assert_eq!(one.as_ptr(), other.as_ptr());
        assert_eq!(answers.0.rendered_bytes.load(Ordering::Relaxed), 2);
        drop((one, other));
        assert_eq!(answers.0.rendered_bytes.load(Ordering::Relaxed), 0);
        answers.rendered("b".to_owned(), || Ok(String::new())).unwrap();
        assert_eq!(answers.0.rendered.lock().len(), 1);
    }
}
