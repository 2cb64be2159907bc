//! Random lives of clients: whatever happens in them, each client ends with the current snapshot.
//!
//! A life is a random sequence of requests, ACKs, NACKs, publishes, pauses and reconnects, against a session of its
//! own. `world` is the published content, `client` the model of a client and the responses that it must never get,
//! `wire` the messages, `statistics` the distribution of the lives. A life that fails is shortened as far as possible
//! and printed.
//!
//! `cargo test` runs some lives, always the same. `make property` searches with a new seed and many more lives, in an
//! optimised build; `make test` runs as many, always the same. `INTERLEAVINGS` sets the number of lives,
//! `INTERLEAVINGS_SEED` repeats a printed seed.

#![expect(clippy::cast_possible_truncation, reason = "random words are cut on purpose")]
#![expect(
    clippy::needless_range_loop,
    reason = "types and names are small numbers, which index several tables at once"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use client::{ALL_NAMES, Checked, Client, Edit, Reply, knows_wildcard};
use statistics::{Kind, Statistics};
use world::{CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, RUNTIME, Random, SCOPED, SECRET, TYPES, World, refers};

use crate::fleet::Variant;

mod client;
mod statistics;
mod wire;
mod world;

/// The number of lives, unless `INTERLEAVINGS` is set.
const LIVES: usize = 2_000;
/// The seed, unless `INTERLEAVINGS` or `INTERLEAVINGS_SEED` is set.
const SEED: u64 = 15_208_641_345_419_668_509;
/// Lives that see the same publishes, each at its own pace, and share what sessions share.
const LIVES_A_WORLD: usize = 50;
/// Publishes of a world; after the last comes the first.
const MOMENTS: usize = 24;

/// One step: a random word, which has a meaning in every state.
#[derive(Debug, Clone, Copy)]
struct Step(u64);

/// The frequency of each kind, of 100.
const WEIGHTS: [(usize, Kind); 15] = [
    (15, Kind::Publish),
    (1, Kind::Stale),
    (10, Kind::Subscribe),
    (4, Kind::Unsubscribe),
    (3, Kind::Wildcard),
    (6, Kind::Follow),
    (2, Kind::Repeat),
    (21, Kind::Ack),
    (5, Kind::Nack),
    (2, Kind::StaleNonce),
    (25, Kind::Take),
    (2, Kind::Moment),
    (2, Kind::Reconnect),
    (1, Kind::Move),
    (1, Kind::Unserved),
];

impl Step {
    fn kind(self) -> Kind {
        let mut left = self.0 as usize % 100;
        for (weight, kind) in WEIGHTS {
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        unreachable!("the weights are 100 in all")
    }

    /// Some bits of the word.
    fn part(self, from: u32, limit: usize) -> usize {
        (self.0 >> from) as usize % 1024 % limit
    }

    fn is(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }

    /// A type: mostly one of the four common ones.
    fn of(self) -> usize {
        const OFTEN: [usize; 16] = [
            CLUSTER, CLUSTER, CLUSTER, CLUSTER, ENDPOINT, ENDPOINT, ENDPOINT, LISTENER, LISTENER, LISTENER, ROUTE,
            ROUTE, ROUTE, SECRET, SCOPED, RUNTIME,
        ];
        if self.part(8, 40) == 0 {
            EXTENSION
        } else {
            OFTEN[self.part(18, 16)]
        }
    }

    /// One name, two, or none.
    fn names(self) -> u8 {
        let two = 1 << self.part(28, 6) | if self.is(38) { 1 << self.part(39, 6) } else { 0 };
        if self.part(45, 12) == 0 { 0 } else { two }
    }

    /// A change of the subscription in another request, now and then.
    fn rider(self) -> Edit {
        let names = self.names();
        match self.part(48, 8) {
            0 => Edit {
                names,
                ..Edit::default()
            },
            1 => Edit {
                unnames: names,
                ..Edit::default()
            },
            _ => Edit::default(),
        }
    }
}

impl Client<'_> {
    /// Take the step. Gives whether it had an effect.
    fn on(&mut self, step: Step, statistics: &mut Statistics) -> Result<bool, String> {
        let (of, names) = (step.of(), step.names());
        self.flush = self.flush.filter(|_| step.kind() == Kind::Take);
        match step.kind() {
            Kind::Publish => {
                self.published = true;
                self.moment = (self.moment + 1 + step.part(8, 12).saturating_sub(9)) % MOMENTS;
            }
            Kind::Stale => self.stale = !self.stale,
            Kind::Subscribe if self.is_to_be_reopened(of) => self.ask(of, Edit::default())?,
            Kind::Subscribe if knows_wildcard(of) && !self.types[of].opened && step.is(58) => {
                self.ask(of, Edit::default())?
            }
            Kind::Subscribe => self.ask(
                of,
                Edit {
                    names,
                    ..Edit::default()
                },
            )?,
            Kind::Unsubscribe => self.ask(
                of,
                Edit {
                    unnames: names,
                    ..Edit::default()
                },
            )?,
            Kind::Wildcard => {
                let (star, unstar) = (step.is(50), !step.is(50) || step.is(51) && step.is(52));
                self.ask(
                    of,
                    Edit {
                        star,
                        unstar,
                        names: if step.is(53) { names } else { 0 },
                        unnames: 0,
                    },
                )?;
            }
            Kind::Follow => return self.follow(of),
            Kind::Repeat if !self.types[of].opened => return Ok(false),
            Kind::Repeat => self.ask(
                of,
                Edit {
                    names: self.types[of].names,
                    ..Edit::default()
                },
            )?,
            Kind::Ack | Kind::Nack => return self.reply(step),
            Kind::StaleNonce => self.ask_stale(of, step.rider(), step.0 >> 20)?,
            Kind::Take => {
                let most = [1, 2, 9][step.part(8, 3)];
                for taken in 0..most {
                    if !self.take(statistics)? {
                        return Ok(taken > 0);
                    }
                }
            }
            Kind::Moment => self.now += Duration::from_millis([40, 700, 1_500, 6_000, 20_000, 61_000][step.part(8, 6)]),
            Kind::Reconnect => self.reconnect(step.is(8), step.is(9)),
            Kind::Move => self.move_node(of)?,
            Kind::Unserved => self.ask_unserved(step.part(8, 3))?,
        }
        Ok(true)
    }

    /// Subscribe to the references of the client's resources, as Envoy does, and to no other resource.
    fn follow(&mut self, of: usize) -> Result<bool, String> {
        let (to, parent) = if of == LISTENER || of == ROUTE {
            (ROUTE, LISTENER)
        } else {
            (ENDPOINT, CLUSTER)
        };
        if self.is_to_be_reopened(to) {
            self.ask(to, Edit::default())?;
        }
        let parents = self.types[parent]
            .applied
            .iter()
            .enumerate()
            .filter(|(_, content)| **content != 0);
        let wanted = parents
            .flat_map(|(name, content)| refers(parent, name, *content))
            .flatten();
        let wanted = wanted
            .filter(|(other, _)| *other == to)
            .fold(0, |all, (_, name)| all | 1 << name);
        let has = self.types[to].names;
        if wanted == has {
            return Ok(false);
        }
        self.ask(
            to,
            Edit {
                names: wanted & !has,
                unnames: has & !wanted & ALL_NAMES,
                ..Edit::default()
            },
        )?;
        Ok(true)
    }

    /// Answer a response: the oldest of a type, or a later one. The request may change the subscription too.
    fn reply(&mut self, step: Step) -> Result<bool, String> {
        let from = step.part(8, TYPES);
        let Some(of) = (from..TYPES).chain(0..from).find(|of| self.unanswered(*of) > 0) else {
            return Ok(false);
        };
        let index = if step.is(18) && step.is(19) {
            self.unanswered(of) - 1
        } else {
            0
        };
        let reply = match step.kind() {
            Kind::Nack if step.part(20, 6) == 0 => Reply::Nack(None),
            Kind::Nack => Reply::Nack(Some((step.0 >> 56) as u8)),
            _ => Reply::Ack,
        };
        self.answer(of, index, reply, step.rider())?;
        Ok(true)
    }
}

/// The settings of a life, beside its steps.
#[derive(Debug, Clone, Copy)]
struct Birth {
    variant: Variant,
    /// Whether the client subscribes to every type first, as Envoy does.
    like_envoy: bool,
    moment: usize,
    published: bool,
    in_edge: bool,
}

impl Birth {
    fn new(random: &mut Random) -> Self {
        let word = Step(random.word());
        Self {
            variant: if word.is(1) { Variant::Sotw } else { Variant::Delta },
            like_envoy: word.part(8, 4) != 0,
            moment: word.part(18, MOMENTS),
            published: word.part(28, 16) != 0,
            in_edge: word.is(40),
        }
    }
}

fn life(world: &World, birth: Birth, steps: &[Step], log: bool, statistics: &mut Statistics) -> (Checked, Vec<String>) {
    let mut client = Client::new(birth.variant, world, *ORIGIN);
    client.log = log.then(Vec::new);
    (client.moment, client.published, client.in_edge) = (birth.moment, birth.published, birth.in_edge);
    let checked = catch_unwind(AssertUnwindSafe(|| live(&mut client, birth, steps, statistics)));
    let checked = checked.unwrap_or_else(|_| Err("the session panicked".to_owned()));
    let types = client.types.iter().filter(|one| one.opened).count();
    statistics.kept += client.kept_back;
    statistics.on_end(birth.variant == Variant::Delta, types);
    (checked, client.log.unwrap_or_default())
}

fn live(client: &mut Client<'_>, birth: Birth, steps: &[Step], statistics: &mut Statistics) -> Checked {
    if birth.like_envoy {
        for of in [CLUSTER, LISTENER] {
            client.ask(of, Edit::default())?;
        }
    }
    for step in steps {
        if let Some(log) = &mut client.log {
            log.push(format!("{:?}", step.kind()));
        }
        if client.on(*step, statistics)? {
            statistics.on_step(step.kind());
        }
    }
    client.run_to_rest(statistics)
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin; only distances matter")]
static ORIGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

#[expect(
    clippy::disallowed_methods,
    reason = "how long to search, and where, is the caller's"
)]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The steps of a failure without those that it does not need.
fn shrink(mut steps: Vec<Step>, fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < steps.len() {
            let to = (from + size).min(steps.len());
            let fewer = [&steps[..from], &steps[to..]].concat();
            if fails(&fewer) {
                steps = fewer;
            } else {
                from = to;
            }
        }
        size /= 2;
    }
    steps
}

/// One world and its lives. `Err`: the report of the first that failed.
fn lives(seed: u64, number: usize, statistics: &mut Statistics) -> Checked {
    let mut random = Random(seed ^ (number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
    let world = World::new(random.word(), MOMENTS);
    for _ in 0..LIVES_A_WORLD {
        let birth = Birth::new(&mut random);
        let count = 40 + random.below(60);
        let steps: Vec<Step> = (0..count).map(|_| Step(random.word())).collect();
        if life(&world, birth, &steps, false, statistics).0.is_ok() {
            continue;
        }
        let run = |steps: &[Step], log| life(&world, birth, steps, log, &mut Statistics::default());
        let steps = shrink(steps, |steps| run(steps, false).0.is_err());
        let (checked, log) = run(&steps, true);
        let error = checked
            .err()
            .unwrap_or_else(|| "it fails no longer when it is run again".to_owned());
        return Err(format!(
            "{error}\nseed {seed}, world {number}, {birth:?}\n{}",
            log.join("\n")
        ));
    }
    Ok(())
}

#[test]
fn clients_end_on_the_newest_state_whatever_happens_on_the_way() {
    let wanted = setting("INTERLEAVINGS");
    let seed = setting("INTERLEAVINGS_SEED").unwrap_or_else(|| wanted.map_or(SEED, |_| rand::random()));
    let wanted = wanted.map_or(LIVES, |lives| lives as usize);
    println!("INTERLEAVINGS_SEED={seed}");
    let started = ORIGIN.elapsed();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let sum = Mutex::new((Statistics::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let (mut statistics, mut failures) = (Statistics::default(), Vec::new());
                while !failed.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number * LIVES_A_WORLD >= wanted {
                        break;
                    }
                    if let Err(report) = lives(seed, number, &mut statistics) {
                        failed.store(true, Ordering::Relaxed);
                        failures.push(report);
                    }
                }
                let mut sum = sum.lock();
                sum.0.add(&statistics);
                sum.1.append(&mut failures);
            });
        }
    });
    let (statistics, failures) = sum.into_inner();
    println!("{statistics}\n{:?} on {threads} threads", ORIGIN.elapsed() - started);
    assert!(
        failures.is_empty(),
        "INTERLEAVINGS_SEED={seed}\n{}",
        failures.join("\n\n")
    );
    check_distribution(&statistics);
}

/// The search must keep reaching the states in which faults were found.
fn check_distribution(statistics: &Statistics) {
    assert!(
        statistics.steps_at(50) >= 40,
        "the median of the steps is {}",
        statistics.steps_at(50)
    );
    assert!(
        statistics.with_types(3) >= 80,
        "{}% of the lives have three types",
        statistics.with_types(3)
    );
    assert!(
        statistics.with_unanswered(2) >= 80,
        "{}% of them, two unanswered",
        statistics.with_unanswered(2)
    );
    assert!(
        (40..=60).contains(&(statistics.delta * 100 / statistics.lives)),
        "one variant has few lives"
    );
    for kind in Kind::ALL {
        assert!(
            statistics.rate(kind) >= 20,
            "{kind:?} happens {} times in a hundred lives",
            statistics.rate(kind)
        );
    }
    assert!(
        statistics.kept_rate() >= 10,
        "{} changes in a hundred lives wait for clusters",
        statistics.kept_rate()
    );
    assert!(
        statistics.removal_rate() >= 200,
        "{} removals in a hundred lives",
        statistics.removal_rate()
    );
}
