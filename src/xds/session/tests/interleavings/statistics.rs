//! The distribution of the lives, so that the search cannot become weak unnoticed.

use std::fmt;

use super::world::Contents;

/// The kinds of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Publish,
    Stale,
    Subscribe,
    Unsubscribe,
    Wildcard,
    Follow,
    Repeat,
    Ack,
    Nack,
    StaleNonce,
    Take,
    Moment,
    Reconnect,
    Move,
    Unserved,
}

impl Kind {
    pub(super) const ALL: [Self; 15] = [
        Self::Publish,
        Self::Stale,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Wildcard,
        Self::Follow,
        Self::Repeat,
        Self::Ack,
        Self::Nack,
        Self::StaleNonce,
        Self::Take,
        Self::Moment,
        Self::Reconnect,
        Self::Move,
        Self::Unserved,
    ];
}

/// Counts over many lives.
#[derive(Debug, Default, Clone)]
pub(super) struct Statistics {
    pub(super) lives: usize,
    pub(super) delta: usize,
    /// Lives by their number of effective steps.
    steps: Vec<usize>,
    /// Lives by their number of subscribed types.
    types: [usize; 9],
    /// Lives by their most unanswered responses at once.
    unanswered: [usize; 9],
    kinds: [usize; Kind::ALL.len()],
    responses: usize,
    resources: usize,
    removals: usize,
    /// Changes that waited for clusters.
    pub(super) kept: usize,
    most_unanswered: usize,
    steps_now: usize,
}

impl Statistics {
    pub(super) fn on_step(&mut self, kind: Kind) {
        self.kinds[kind as usize] += 1;
        self.steps_now += 1;
    }

    pub(super) fn on_response(&mut self, unanswered: usize, items: Contents, removed: u8) {
        self.most_unanswered = self.most_unanswered.max(unanswered);
        self.responses += 1;
        self.resources += items.iter().filter(|content| **content != 0).count();
        self.removals += removed.count_ones() as usize;
    }

    pub(super) fn on_end(&mut self, delta: bool, types: usize) {
        let steps = std::mem::take(&mut self.steps_now);
        let unanswered = std::mem::take(&mut self.most_unanswered).min(8);
        self.lives += 1;
        self.delta += usize::from(delta);
        self.steps.resize(self.steps.len().max(steps + 1), 0);
        self.steps[steps] += 1;
        self.types[types] += 1;
        self.unanswered[unanswered] += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        let sum = |to: &mut [usize], from: &[usize]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        self.steps.resize(self.steps.len().max(other.steps.len()), 0);
        sum(&mut self.steps, &other.steps);
        sum(&mut self.types, &other.types);
        sum(&mut self.unanswered, &other.unanswered);
        sum(&mut self.kinds, &other.kinds);
        self.lives += other.lives;
        self.delta += other.delta;
        self.responses += other.responses;
        self.resources += other.resources;
        self.removals += other.removals;
        self.kept += other.kept;
    }

    /// The number of steps that this share of all lives does not exceed.
    pub(super) fn steps_at(&self, percent: usize) -> usize {
        let (wanted, mut lives) = (self.lives * percent / 100, 0);
        let enough = |count: &usize| {
            lives += count;
            lives > wanted
        };
        self.steps.iter().position(enough).unwrap_or(0)
    }

    /// Percent of lives with so many types or more.
    pub(super) fn with_types(&self, least: usize) -> usize {
        self.types[least..].iter().sum::<usize>() * 100 / self.lives.max(1)
    }

    /// Percent of lives with so many unanswered responses at once, or more.
    pub(super) fn with_unanswered(&self, least: usize) -> usize {
        self.unanswered[least..].iter().sum::<usize>() * 100 / self.lives.max(1)
    }

    /// Steps of a kind for each hundred lives.
    pub(super) fn rate(&self, kind: Kind) -> usize {
        self.kinds[kind as usize] * 100 / self.lives.max(1)
    }

    /// Changes that waited for clusters, for each hundred lives.
    pub(super) fn kept_rate(&self) -> usize {
        self.kept * 100 / self.lives.max(1)
    }

    /// Removals (delta) for each hundred lives.
    pub(super) fn removal_rate(&self) -> usize {
        self.removals * 100 / self.lives.max(1)
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares = |counts: &[usize]| {
            let share = |(number, count): (usize, &usize)| format!("{number}: {}%", count * 100 / self.lives.max(1));
            counts
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
                .map(share)
                .collect::<Vec<_>>()
                .join(", ")
        };
        writeln!(
            formatter,
            "interleavings: {} ({} delta, {} SotW)",
            self.lives,
            self.delta,
            self.lives - self.delta
        )?;
        let [p10, median, p90] = [10, 50, 90].map(|percent| self.steps_at(percent));
        writeln!(
            formatter,
            "steps: p10 {p10}, median {median}, p90 {p90}, most {}",
            self.steps.len().saturating_sub(1)
        )?;
        writeln!(formatter, "types in play: {}", shares(&self.types))?;
        writeln!(
            formatter,
            "most unanswered responses at once (8: or more): {}",
            shares(&self.unanswered)
        )?;
        writeln!(
            formatter,
            "responses: {}, resources: {}, removed names: {}, changes that waited: {}",
            self.responses, self.resources, self.removals, self.kept
        )?;
        let kinds = Kind::ALL.map(|kind| format!("{kind:?} {}", self.kinds[kind as usize]));
        write!(formatter, "steps by kind: {}", kinds.join(", "))
    }
}
