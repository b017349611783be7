//! A slot's memory as a row of steps: of each, the octets that it changed. As text, so that a change
//! of what stands in memory can be read in a diff.

use std::fmt::Write as _;
use std::path::PathBuf;

use boardlane::memory::Mapping;

/// Octets that are kept together.
const ROW: usize = 16;

/// What one end did, and the rows that it left changed, by their offsets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) what: String,
    pub(super) rows: Vec<(usize, [u8; ROW])>,
}

/// All steps of a history.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tape(pub(super) Vec<Step>);

/// The file that a machine of this endianness (`le`, `be`) wrote.
pub(super) fn path(endianness: &str) -> PathBuf {
    let name = format!("window-{endianness}.txt");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

impl Step {
    /// What of `memory` is no more as it was in `before`, which is brought up to date.
    pub(super) fn since(what: &str, before: &mut [u8], memory: &Mapping) -> Self {
        let mut after = vec![0; memory.len()];
        memory.view(0, memory.len()).copy_to(0, &mut after);
        let pairs = before.chunks(ROW).zip(after.chunks(ROW)).enumerate();
        let rows = pairs
            .filter(|(_, (old, new))| old != new)
            .map(|(i, (_, new))| (i * ROW, new.try_into().unwrap()))
            .collect();
        before.copy_from_slice(&after);
        Self { what: what.to_owned(), rows }
    }

    /// Does to memory what the step did.
    pub(super) fn replay(&self, memory: &Mapping) {
        for (offset, octets) in &self.rows {
            memory.view(*offset, ROW).copy_from(0, octets);
        }
    }
}

impl Tape {
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for step in &self.0 {
            writeln!(text, "{}", step.what).unwrap();
            for (offset, octets) in &step.rows {
                let hex: String = octets.iter().map(|o| format!("{o:02x}")).collect();
                writeln!(text, "  {offset:05x} {hex}").unwrap();
            }
        }
        text
    }

    /// The tape that a machine of this endianness wrote.
    pub(super) fn load(endianness: &str) -> Self {
        let path = path(endianness);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| {
            panic!(
                "{}: {e}; BOARDLANE_WRITE_FIXTURES=1 makes it, on such a machine",
                path.display()
            )
        });
        let mut steps: Vec<Step> = Vec::new();
        for line in text.lines() {
            match line.strip_prefix("  ") {
                None => steps.push(Step { what: line.to_owned(), rows: Vec::new() }),
                Some(row) => steps.last_mut().unwrap().rows.push(parse(row)),
            }
        }
        Self(steps)
    }

    /// Panics at the first step that another tape has otherwise.
    pub(super) fn assert_is(&self, other: &Self, whose: &str) {
        for (i, (here, there)) in self.0.iter().zip(&other.0).enumerate() {
            assert_eq!(here, there, "step {i} is not the one on {whose} tape");
        }
        assert_eq!(self.0.len(), other.0.len(), "steps here and on {whose} tape");
    }
}

fn parse(row: &str) -> (usize, [u8; ROW]) {
    let (offset, hex) = row.split_once(' ').unwrap();
    let octets = u128::from_str_radix(hex, 16).unwrap().to_be_bytes();
    (usize::from_str_radix(offset, 16).unwrap(), octets)
}
