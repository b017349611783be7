//! The cells: kinds of links, and the feature that one of the ends does without.

use std::collections::BTreeSet;

use boardlane::net::features::Features;

use super::{MTU, PREFIX};
use crate::checker::maker::Dice;

/// A link without these does not come up.
const NEEDED: [&str; 1] = ["VERSION_1"];
const RING_PACKED: &str = "RING_PACKED";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    packed: bool,
    engine: bool,
    queues: u16,
    /// A feature, and the end that does without it.
    off: Option<(&'static str, &'static str)>,
}

impl Cell {
    pub(super) fn name(&self) -> String {
        let ring = if self.packed { "packed" } else { "split" };
        let dma = if self.engine { "engine" } else { "direct" };
        let link = format!("{ring}_{dma}_{}", self.queues);
        match self.off {
            Some((feature, end)) => format!("{PREFIX}{link}_without_{feature}_at_{end}"),
            None => format!("{PREFIX}complete_{link}"),
        }
    }

    /// What is turned off, and where. A link is split because its board is, unless the cell is about that.
    fn off(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let split = !self.packed && self.off.is_none_or(|(feature, _)| feature != RING_PACKED);
        split.then_some((RING_PACKED, "board")).into_iter().chain(self.off)
    }

    /// What the link's status must show.
    pub(super) fn features(&self) -> BTreeSet<&'static str> {
        // One queue pair needs no command to choose it.
        let pair = (self.queues == 1).then_some("MQ");
        let off = self.off().map(|(feature, _)| feature).chain(pair);
        Features::ACCEPT.without(Features::from_names(off).unwrap()).names().collect()
    }

    /// How many queue pairs the link has.
    pub(super) fn pairs(&self) -> usize {
        if self.features().contains("MQ") { self.queues.into() } else { 1 }
    }

    /// The lines of one end's link.
    pub(super) fn keys(&self, machine: &str) -> String {
        let end = if machine == "master" { "master" } else { "board" };
        let off = self.off().filter(|(_, at)| *at == end).map(|(feature, _)| feature);
        let off: Vec<_> = off.collect();
        let dma = match end {
            "board" if self.engine => "dma = \"engine\"\nengine = { latency_us = 20 }",
            "board" => "dma = \"direct\"",
            _ => "",
        };
        let queues = self.queues;
        format!("address = []\nmtu = {MTU}\nqueues = {queues}\nfeatures_off = {off:?}\n{dma}\n")
    }
}

/// Every cell; those that lack nothing come first.
pub(super) fn all() -> Vec<Cell> {
    let needed = Features::from_names(NEEDED).unwrap();
    let features: Vec<_> = Features::OFFER.minus(needed).names().collect();
    let ends = features.iter().flat_map(|&name| [Some((name, "board")), Some((name, "master"))]);
    let mut cells = Vec::new();
    for off in [None].into_iter().chain(ends) {
        for (packed, engine) in [(true, false), (true, true), (false, false), (false, true)] {
            for queues in [1, 2] {
                let without = |name| off.is_some_and(|(feature, _)| feature == name);
                let never = (packed && without(RING_PACKED)) || (queues == 1 && without("MQ"));
                if !never {
                    cells.push(Cell { packed, engine, queues, off });
                }
            }
        }
    }
    cells
}

/// The names of the cells that are to be run.
pub(crate) fn chosen(filter: Option<&str>, seed: u64) -> Vec<String> {
    let cells = all();
    if filter.is_some_and(|filter| filter.starts_with(PREFIX)) {
        return cells.iter().map(Cell::name).collect();
    }
    let (complete, lacking): (Vec<_>, Vec<_>) = cells.iter().partition(|cell| cell.off.is_none());
    // Down the diagonals, so that each feature and each kind of link has its turn.
    let (fixed, rest): (Vec<_>, Vec<_>) =
        lacking.iter().enumerate().partition(|(i, _)| i % 10 == i / 10 % 10);
    let mut rest: Vec<_> = rest.into_iter().map(|(_, cell)| cell).collect();
    let mut dice = Dice::of(&[seed, 0xce11]);
    let by_seed: Vec<_> = fixed.iter().map(|_| rest.swap_remove(dice.below(rest.len()))).collect();
    let fixed = fixed.into_iter().map(|(_, cell)| cell);
    complete
        .into_iter()
        .chain(fixed.copied())
        .chain(by_seed.into_iter().copied())
        .map(Cell::name)
        .collect()
}
