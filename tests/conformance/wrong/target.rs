//! The wrong server as a server under test, and the trials that run the rules against it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use libtest_mimic::{Failed, Trial};

use super::fault::{FAULTS, Fault, UNBROKEN};
use super::service::{Settings, WrongServer};
use super::store::{Edit, Entry};
use crate::checklist::{CHECKLIST, Level};
use crate::fixture::{Change, Resource};
use crate::rule::Rule;
use crate::target::{Launch, Options, Target};
use crate::trial;

/// Wait of a commit for requests on the wire. A commit here is instant: without the wait it would overtake the requests
/// that the client has just sent.
const ON_THE_WIRE: Duration = Duration::from_millis(100);

struct Wrong(Option<Fault>);

#[async_trait(?Send)]
impl Launch for Wrong {
    async fn launch(&self, resources: Vec<Resource>, options: Options) -> Box<dyn Target> {
        let arguments = options.arguments.iter().zip(options.arguments.iter().skip(1));
        let age = arguments
            .filter(|(flag, _)| *flag == "--max-connection-age")
            .map(|(_, age)| duration(age))
            .next();
        let server = WrongServer::start(Settings { fault: self.0, age }).await;
        server.apply(
            resources
                .into_iter()
                .map(|resource| edit(Change::Put(resource)))
                .collect(),
        );
        Box::new(server)
    }
}

#[async_trait(?Send)]
impl Target for WrongServer {
    fn address(&self) -> String {
        self.address().to_string()
    }

    async fn commit(&self, changes: Vec<Change>) {
        tokio::time::sleep(ON_THE_WIRE).await;
        self.apply(changes.into_iter().map(edit).collect());
    }

    async fn restart(&mut self) {
        self.start_again().await;
    }
}

fn edit(change: Change) -> Edit {
    match change {
        Change::Put(resource) => {
            let entry = Entry {
                on_demand: resource.on_demand,
                elsewhere: resource.groups.is_some(),
                aliases: resource.aliases.clone(),
                ..Entry::new(resource.any().value).lasting(resource.ttl.as_deref().map(duration))
            };
            (resource.resource_type.type_url().to_owned(), resource.name, Some(entry))
        }
        Change::Delete(resource_type, name) => (resource_type.type_url().to_owned(), name, None),
    }
}

fn duration(text: &str) -> Duration {
    humantime::parse_duration(text).expect("a duration")
}

/// Check that every MUST has a fault that breaks it, or a reason for having none.
///
/// # Errors
/// Names the IDs with neither or both, and those that are no MUST.
pub(crate) fn complete() -> Result<(), String> {
    let musts: BTreeSet<&str> = CHECKLIST
        .iter()
        .filter(|entry| entry.level == Level::Must)
        .map(|entry| entry.id)
        .collect();
    let broken: BTreeSet<&str> = FAULTS.iter().flat_map(|row| row.breaks).copied().collect();
    let reasons: BTreeSet<&str> = UNBROKEN.iter().map(|(id, _)| *id).collect();
    let wanting: Vec<&str> = musts
        .iter()
        .filter(|id| !broken.contains(**id) && !reasons.contains(**id))
        .copied()
        .collect();
    if !wanting.is_empty() {
        return Err(format!("neither a fault nor a reason for {}", wanting.join(", ")));
    }
    let idle: Vec<&str> = reasons
        .iter()
        .filter(|id| broken.contains(**id) || !musts.contains(**id))
        .copied()
        .collect();
    if idle.is_empty() {
        Ok(())
    } else {
        Err(format!("a reason that is not needed for {}", idle.join(", ")))
    }
}

/// A trial for every fault and rule that must notice it, and one for every such rule without a fault.
pub(crate) fn trials(rules: &[&'static Rule]) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut sound = BTreeSet::new();
    for row in FAULTS {
        for id in row.breaks {
            let tests = of(rules, id);
            trials.push(Trial::test(format!("wrong::{:?}_breaks_{id}", row.fault), move || {
                let failed = tests.iter().any(|test| fails(test, Some(row.fault)).is_err());
                let missed = format!("{id} passes against a server that is wrong: {:?}", row.fault);
                if failed { Ok(()) } else { Err(Failed::from(missed)) }
            }));
            sound.insert(*id);
        }
    }
    for id in sound {
        let tests = of(rules, id);
        trials.push(Trial::test(format!("wrong::no_fault_keeps_{id}"), move || {
            tests
                .iter()
                .try_for_each(|test| fails(test, None))
                .map_err(Failed::from)
        }));
    }
    trials.push(Trial::test("wrong::every_must_has_a_fault_or_a_reason", || {
        Ok(complete()?)
    }));
    trials
}

/// The tests of an ID.
fn of(rules: &[&'static Rule], id: &str) -> Vec<&'static Rule> {
    rules.iter().copied().filter(|rule| rule.id == id).collect()
}

/// Run a rule in all its variants.
fn fails(rule: &Rule, fault: Option<Fault>) -> Result<(), String> {
    let launch: Arc<dyn Launch> = Arc::new(Wrong(fault));
    rule.applies
        .iter()
        .try_for_each(|variant| trial::run(rule, *variant, &launch))
}
