//! The type of a rule, and the arguments of its test.
//!
//! The file of a section ends in a table made by [`rules!`]: an ID, its variants, and the function that tests the ID.
//! The name of the function states the fact; the function panics with the values that it found. Several rows may share
//! an ID.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::client::{Client, Transcript};
use super::fixture::{Change, Resource, Type};
use super::target::{Launch, Options, Target};

/// The two forms of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

/// Both.
pub(crate) const BOTH: &[Variant] = &[Variant::Sotw, Variant::Delta];
/// State of the world only.
pub(crate) const SOTW: &[Variant] = &[Variant::Sotw];
/// Incremental only.
pub(crate) const DELTA: &[Variant] = &[Variant::Delta];

impl Variant {
    /// The word in test names.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        }
    }
}

/// A test of one rule.
pub(crate) struct Rule {
    /// `GEN-01`.
    pub(crate) id: &'static str,
    /// The name of the function, which states the fact.
    pub(crate) name: &'static str,
    /// The variants that it is run for.
    pub(crate) applies: &'static [Variant],
    /// The test.
    pub(crate) run: fn(Context) -> Running,
}

/// A test that runs. It stays on its thread.
pub(crate) type Running = Pin<Box<dyn Future<Output = ()>>>;

impl Rule {
    /// `gen_01_the_node_is_kept::sotw`.
    pub(crate) fn trial(&self, variant: Variant) -> String {
        format!(
            "{}_{}::{}",
            self.id.to_lowercase().replace('-', "_"),
            self.name,
            variant.word()
        )
    }
}

/// The table at the head of a section's file: `"GEN-01" BOTH the_node_of_the_first_message_is_kept`.
macro_rules! rules {
    ($($id:literal $applies:ident $function:ident),* $(,)?) => {
        &[$($crate::rule::Rule {
            id: $id,
            name: stringify!($function),
            applies: $crate::rule::$applies,
            run: |context| Box::pin($function(context)),
        }),*]
    };
}
pub(crate) use rules;

/// A row of the table that has no test.
pub(crate) struct Noted {
    /// The rule.
    pub(crate) id: &'static str,
    /// For which variants.
    pub(crate) applies: &'static [Variant],
    /// Why there is no test.
    pub(crate) kind: Kind,
    /// In a few words.
    pub(crate) reason: &'static str,
}

/// Why a row has no test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The server does not do it.
    Unmet,
    /// There is nothing that a server could be tested for.
    Information,
}

/// The argument of a rule's test, which starts the server under test with the test's resources.
#[derive(Clone)]
pub(crate) struct Context {
    /// The variant that this run is about.
    pub(crate) variant: Variant,
    pub(crate) launch: Arc<dyn Launch>,
    pub(crate) transcript: Transcript,
}

impl Context {
    /// A server that serves exactly these resources.
    pub(crate) async fn serve(&self, resources: Vec<Resource>) -> World {
        self.serve_with(resources, Options::default()).await
    }

    /// The same with options.
    pub(crate) async fn serve_with(&self, resources: Vec<Resource>, options: Options) -> World {
        let target = self.launch.launch(resources, options).await;
        World {
            target,
            variant: self.variant,
            transcript: self.transcript.clone(),
        }
    }

    /// A server that serves fixture F1.
    pub(crate) async fn f1(&self) -> World {
        self.serve(super::fixture::f1()).await
    }
}

/// A server under test, with its resources.
pub(crate) struct World {
    /// The server.
    pub(crate) target: Box<dyn Target>,
    /// The variant of the streams that [`World::open`] opens.
    pub(crate) variant: Variant,
    transcript: Transcript,
}

impl World {
    /// An ADS stream.
    pub(crate) async fn open(&self) -> Client {
        Client::ads(
            &self.target.address(),
            self.target.node(),
            self.variant,
            &self.transcript,
        )
        .await
    }

    /// A stream of the service of one type.
    pub(crate) async fn open_service(&self, resource_type: Type) -> Client {
        Client::service(
            &self.target.address(),
            self.target.node(),
            resource_type,
            self.variant,
            &self.transcript,
        )
        .await
    }

    /// Change the served resources in one step, and wait until the server has had time to see the change.
    pub(crate) async fn commit(&self, changes: Vec<Change>) {
        self.commit_at_once(changes).await;
        self.target.settled().await;
    }

    /// Change the served resources in one step.
    pub(crate) async fn commit_at_once(&self, changes: Vec<Change>) {
        self.transcript.note(&format!(
            "commit {}",
            changes.iter().map(Change::to_string).collect::<Vec<_>>().join(", ")
        ));
        self.target.commit(changes).await;
    }
}
