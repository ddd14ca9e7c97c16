//! Which connection gives way to a new one while all slots are taken: of the source that holds most,
//! the oldest. It knows no sockets.

use std::collections::{BTreeMap, HashMap};

use super::source::Source;

/// Numbers connections in the order in which they came.
pub(super) type Age = u64;

/// The connections that give way, each with what it takes to end it.
#[derive(Debug)]
pub(super) struct Crowd<T> {
    /// Oldest first.
    held: BTreeMap<Age, (Source, T)>,
    /// How many each source holds; none is 0.
    counts: HashMap<Source, usize>,
    /// At `n`, how many sources hold that many connections, so that the most is known at any time.
    holders: Vec<usize>,
}

impl<T> Crowd<T> {
    pub(super) fn new() -> Self {
        Self { held: BTreeMap::new(), counts: HashMap::new(), holders: vec![0] }
    }

    /// Adds the youngest connection.
    pub(super) fn add(&mut self, age: Age, source: Source, connection: T) {
        self.held.insert(age, (source, connection));
        let count = self.counts.entry(source).or_default();
        *count += 1;
        let count = *count;
        if count == self.holders.len() {
            self.holders.push(0);
        }
        self.holders[count] += 1;
        if count > 1 {
            self.holders[count - 1] -= 1;
        }
    }

    /// Takes a connection out, which may be out already.
    pub(super) fn remove(&mut self, age: Age) -> Option<T> {
        let (source, connection) = self.held.remove(&age)?;
        let count = self.counts.get_mut(&source)?;
        self.holders[*count] -= 1;
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&source);
        } else {
            self.holders[*count] += 1;
        }
        while self.holders.len() > 1 && self.holders.last() == Some(&0) {
            self.holders.pop();
        }
        Some(connection)
    }

    /// The connection that gives way next. Where several sources hold most, theirs that is oldest.
    ///
    /// It looks at each one that is older, which are few where one source, or many, hold the most.
    pub(super) fn next(&self) -> Option<(Age, &T)> {
        let most = self.holders.len() - 1;
        let (age, (_, connection)) =
            self.held.iter().find(|(_, (source, _))| self.counts.get(source) == Some(&most))?;
        Some((*age, connection))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(n: u8) -> Source {
        Source::V4(Ipv4Addr::new(192, 0, 2, n))
    }

    fn crowd(sources: &[u8]) -> Crowd<()> {
        let mut crowd = Crowd::new();
        for (age, n) in (0..).zip(sources) {
            crowd.add(age, source(*n), ());
        }
        crowd
    }

    /// The ages in the order in which they give way.
    fn order(mut crowd: Crowd<()>) -> Vec<Age> {
        std::iter::from_fn(|| {
            let (age, ()) = crowd.next()?;
            crowd.remove(age).map(|()| age)
        })
        .collect()
    }

    #[test]
    fn the_source_that_holds_most_gives_way_first_and_its_oldest_connection() {
        assert_eq!(order(crowd(&[])), [] as [Age; 0]);
        assert_eq!(order(crowd(&[1, 2, 3])), [0, 1, 2]);
        assert_eq!(order(crowd(&[1, 2, 2, 2, 3])), [1, 2, 0, 3, 4]);
        assert_eq!(order(crowd(&[1, 1, 2, 2, 2])), [2, 0, 3, 1, 4]);
    }

    /// What the counts say is what a count says, whatever came and went.
    #[test]
    fn the_counts_hold() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut crowd = Crowd::new();
        let mut model = BTreeMap::new();
        for age in 0..4_000 {
            if random(2) == 0 {
                let source = source(u8::try_from(random(1 + age / 200)).unwrap());
                crowd.add(age, source, ());
                model.insert(age, source);
            } else {
                let gone = age.saturating_sub(random(200));
                assert_eq!(crowd.remove(gone).is_some(), model.remove(&gone).is_some());
            }
            let held = |source| model.values().filter(|held| **held == source).count();
            let expected = model.iter().map(|(age, source)| (held(*source), *age));
            let expected = expected.min_by_key(|(count, age)| (usize::MAX - count, *age));
            assert_eq!(crowd.next().map(|(age, ())| age), expected.map(|(_, age)| age));
            if model.len() > 60 {
                let (age, ()) = crowd.next().unwrap();
                crowd.remove(age);
                model.remove(&age);
            }
        }
    }
}
