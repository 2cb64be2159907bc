//! Clients that do what clients may do, in any order: whatever happened on the way, they end on what is served.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;

const TYPES: [ResourceType; 4] = [CLUSTER, ENDPOINT, LISTENER, ROUTE];
const NAMES: [&str; 4] = ["A", "B", "C", "D"];

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(ResourceType, &'static str, Option<u8>)>),
    Subscribe(ResourceType, &'static str),
    Unsubscribe(ResourceType, &'static str),
    /// Ask for what is asked for already.
    Repeat(ResourceType),
    /// Answer the oldest unanswered response: ACK or NACK.
    Answer(bool),
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    let change = || (prop::sample::select(&TYPES), prop::sample::select(&NAMES), prop::option::weighted(0.7, 1..5_u8));
    let one = || (prop::sample::select(&TYPES), prop::sample::select(&NAMES));
    prop_oneof![
        3 => prop::collection::vec(change(), 1..4).prop_map(Step::Commit),
        2 => one().prop_map(|(of_type, name)| Step::Subscribe(of_type, name)),
        1 => one().prop_map(|(of_type, name)| Step::Unsubscribe(of_type, name)),
        1 => prop::sample::select(&TYPES).prop_map(Step::Repeat),
        3 => any::<bool>().prop_map(Step::Answer),
        4 => Just(Step::Take),
    ]
}

/// What a client that applies what it is told has.
struct Holder {
    client: Client,
    /// Asks for all clusters and listeners.
    wildcard: bool,
    names: BTreeMap<ResourceType, BTreeSet<&'static str>>,
    held: BTreeMap<(ResourceType, String), u8>,
    unanswered: VecDeque<Said>,
    /// SotW: version and nonce that the requests of a type carry.
    latest: HashMap<ResourceType, (String, String)>,
    nonces: HashSet<String>,
    /// SotW: what each version of all clusters, or all listeners, was.
    versions: HashMap<(ResourceType, String), Vec<(String, u8)>>,
    refused: bool,
}

impl Holder {
    fn new(variant: Variant, wildcard: bool) -> Self {
        let mut holder = Self {
            client: Client::new(variant),
            wildcard,
            names: BTreeMap::new(),
            held: BTreeMap::new(),
            unanswered: VecDeque::new(),
            latest: HashMap::new(),
            nonces: HashSet::new(),
            versions: HashMap::new(),
            refused: false,
        };
        if wildcard {
            for of_type in [CLUSTER, LISTENER] {
                match variant {
                    Variant::Sotw => holder.client.sotw(of_type, &[]),
                    Variant::Delta => holder.client.delta(of_type, &[], &[]),
                };
            }
        }
        holder
    }

    fn is_sotw(&self) -> bool {
        self.client.session.settings.variant == Variant::Sotw
    }

    fn is_wild(&self, of_type: ResourceType) -> bool {
        self.wildcard && matches!(of_type, CLUSTER | LISTENER)
    }

    fn names_of(&self, of_type: ResourceType) -> Vec<&'static str> {
        self.names.get(&of_type).into_iter().flatten().copied().collect()
    }

    fn wants(&self, of_type: ResourceType, name: &str) -> bool {
        self.is_wild(of_type) || self.names.get(&of_type).is_some_and(|names| names.contains(name))
    }

    /// SotW: the list as it is now, with what was answered last.
    fn list(&mut self, of_type: ResourceType) {
        let (version, nonce) = self.latest.get(&of_type).cloned().unwrap_or_default();
        let names = self.names_of(of_type);
        self.client.sotw_with(of_type, &names, &version, &nonce);
    }

    fn on(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Commit(changes) => {
                self.client.commit(&changes);
            }
            Step::Subscribe(of_type, name) if !(self.is_sotw() && self.is_wild(of_type)) => {
                self.names.entry(of_type).or_default().insert(name);
                if self.is_sotw() {
                    self.list(of_type);
                } else {
                    self.client.delta(of_type, &[name], &[]);
                }
            }
            Step::Unsubscribe(of_type, name) => {
                if self.names.get_mut(&of_type).is_some_and(|names| names.remove(name)) {
                    if self.is_sotw() {
                        self.held.remove(&(of_type, name.to_owned()));
                        self.list(of_type);
                    } else {
                        self.client.delta(of_type, &[], &[name]);
                    }
                }
            }
            Step::Repeat(of_type) if self.is_sotw() && self.names.contains_key(&of_type) => self.list(of_type),
            Step::Answer(good) => self.answer(good),
            Step::Take => {
                if let Some(said) = self.client.next() {
                    self.take(said)?;
                }
            }
            Step::Subscribe(..) | Step::Repeat(_) => {}
        }
        Ok(())
    }

    fn answer(&mut self, good: bool) {
        let Some(said) = self.unanswered.pop_front() else { return };
        let of_type = said.resource_type;
        let names = self.names_of(of_type);
        let accepted = self.latest.get(&of_type).map(|(version, _)| version.clone()).unwrap_or_default();
        self.refused |= !good;
        if good {
            self.client.ack(&said, &names);
            self.latest.insert(of_type, (said.version, said.nonce));
        } else {
            self.client.nack(&said, &names);
            self.latest.insert(of_type, (accepted, said.nonce));
        }
    }

    fn take(&mut self, said: Said) -> Result<(), TestCaseError> {
        let of_type = said.resource_type;
        prop_assert!(self.nonces.insert(said.nonce.clone()), "a nonce twice: {said:?}");
        let unique: BTreeSet<_> = said.resources.iter().map(|(name, _)| name).chain(&said.removed).collect();
        prop_assert_eq!(unique.len(), said.resources.len() + said.removed.len(), "a name twice");
        if self.is_sotw() && matches!(of_type, CLUSTER | LISTENER) {
            self.held.retain(|(held, _), _| *held != of_type);
            let known = self.versions.entry((of_type, said.version.clone())).or_insert_with(|| said.resources.clone());
            prop_assert_eq!(&*known, &said.resources, "one version, two contents");
        }
        for (name, content) in &said.resources {
            if !self.is_sotw() || self.wants(of_type, name) {
                self.held.insert((of_type, name.clone()), *content);
            }
        }
        for name in &said.removed {
            self.held.remove(&(of_type, name.clone()));
        }
        self.unanswered.push_back(said);
        Ok(())
    }

    /// Take and acknowledge until there is nothing more.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..20 {
            let said = self.client.all();
            let quiet = said.is_empty() && self.unanswered.is_empty();
            for said in said {
                self.take(said)?;
            }
            while !self.unanswered.is_empty() {
                self.answer(true);
            }
            if quiet {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("answers are answered without end"))
    }

    fn served(&self) -> BTreeMap<(ResourceType, String), u8> {
        let group = self.client.snapshot.group("default").expect("the default group");
        let all = TYPES.into_iter().flat_map(|of_type| group.set(of_type).iter().map(move |one| (of_type, one)));
        all.filter(|(of_type, one)| self.wants(*of_type, &one.name))
            .map(|(of_type, one)| ((of_type, one.name.to_string()), parse(&one.body.to_bytes()).1))
            .collect()
    }

    /// What is gone and kept with the client, because it refused what no longer refers to it and no fix came.
    fn waits(&self) -> HashSet<(ResourceType, String)> {
        let states = self.client.session.types.iter().flatten();
        let holds = states.flat_map(|state| state.holds.iter().map(|hold| (state.resource_type, hold)));
        holds
            .flat_map(|(of_type, hold)| hold.resources.iter().map(move |one| (of_type, one.name.to_string())))
            .collect()
    }

    /// The client has what is served, and nothing else that it could have been told of.
    fn check(mut self) -> Result<(), TestCaseError> {
        let (served, waits) = (self.served(), self.waits());
        prop_assert!(self.refused || waits.is_empty(), "waits for nothing: {waits:?}");
        let is_sotw = self.is_sotw();
        let mut held = std::mem::take(&mut self.held);
        held.retain(|key, _| {
            // SotW has no word for the removal of endpoints and routes.
            let unspeakable = is_sotw && matches!(key.0, ENDPOINT | ROUTE);
            self.wants(key.0, &key.1) && (served.contains_key(key) || !(unspeakable || waits.contains(key)))
        });
        prop_assert_eq!(held, served);
        prop_assert_eq!(self.client.says(), Vec::<String>::new());
        if is_sotw && !self.refused {
            for of_type in TYPES {
                if self.names.contains_key(&of_type) {
                    self.list(of_type);
                }
            }
            prop_assert_eq!(self.client.says(), Vec::<String>::new(), "lists that repeat themselves");
        }
        Ok(())
    }
}

fn lives(variant: Variant, wildcard: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut holder = Holder::new(variant, wildcard);
    for step in steps {
        holder.on(step)?;
    }
    holder.settle()?;
    holder.client.now += Duration::from_secs(3600);
    holder.settle()?;
    holder.check()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_delta_client_ends_on_the_newest_state(wildcard in any::<bool>(), steps in steps()) {
        lives(Variant::Delta, wildcard, steps)?;
    }

    #[test]
    fn a_sotw_client_ends_on_the_newest_state(wildcard in any::<bool>(), steps in steps()) {
        lives(Variant::Sotw, wildcard, steps)?;
    }
}
