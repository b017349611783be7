//! Hostile tables: a driver that breaks the standard's rules against our device, and a device that breaks
//! them against our driver (virtio 1.4, virtio-msg, and the window's own layout).
//!
//! A victim is a `Link` with its data paths, as a daemon and its workers have it, on a clock of the
//! test's. The attacker comes as far as a case wants to by the rules, and then writes what it likes to
//! its own mapping of the slot. Each row says which sentence it breaks, and what has to come of it. No
//! case may panic, hang, or have the victim touch what it was not given; and after each a well-behaved
//! end on the same slot comes up and exchanges frames.
//!
//! Each table runs over model memory, which sees every access (feature `sim`; plain memory without it), by
//! CPU and by engine, cached and uncached; and over a slot of a backplane, whose mappings stand between
//! guard pages.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]
#![allow(clippy::cast_possible_truncation, reason = "octets and small numbers are made here")]

mod attack;
mod case;
mod device;
mod device_side;
mod driver_side;
mod ground;
mod rings;
mod victim;

use std::collections::BTreeSet;

use boardlane::tunnel::part::Role;
use libtest_mimic::{Arguments, Failed, Trial};

use case::Table;
use ground::Ground;

/// Least number of cases: with a driver's role, and with a device's.
const LEAST: [(Role, usize); 2] = [(Role::Driver, 120), (Role::Device, 60)];

fn main() {
    let arguments = Arguments::from_args();
    let tables: Vec<Table> =
        driver_side::tables().into_iter().chain(device_side::tables()).collect();
    let mut trials = counts(&tables, !arguments.list);
    for table in tables {
        let Table { name: subject, attacker, cases } = table;
        let side = if attacker == Role::Driver { "driver" } else { "device" };
        for case in cases {
            let case: &'static case::Case = Box::leak(Box::new(case));
            for ground in Ground::ALL {
                for engine in [false, true] {
                    let no_engine = attacker == Role::Device
                        || *ground != Ground::Model
                        || case.setup.window_only;
                    // Packed queues are for cached memory; and where a word is read for each of its octets,
                    // it does not matter that the others change.
                    let cached_only = case.setup.packed() || subject == "changing";
                    if engine && no_engine || cached_only && *ground == Ground::Words {
                        continue;
                    }
                    let by = if engine { ", by engine" } else { "" };
                    let ground_name = ground.name();
                    let name = format!("{side}/{subject}/{} ({ground_name}{by})", case.name);
                    trials.push(Trial::test(name, move || {
                        case.run(attacker, *ground, engine);
                        Ok(())
                    }));
                }
            }
        }
    }
    #[cfg(feature = "sim")]
    trials.push(Trial::test("model memory sees each access", || {
        ground::model_memory_sees_each_access();
        Ok(())
    }));
    libtest_mimic::run(&arguments, trials).exit();
}

/// Says how many cases there are; two trials want enough of them, and each with a name of its own.
fn counts(tables: &[Table], print: bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (role, least) in LEAST {
        let side = if role == Role::Driver { "driver" } else { "device" };
        let of_side = || tables.iter().filter(|table| table.attacker == role);
        if print {
            of_side().for_each(|table| {
                say(&format!("{side}/{}: {} cases", table.name, table.cases.len()))
            });
        }
        let count: usize = of_side().map(|table| table.cases.len()).sum();
        let names = of_side().flat_map(|t| t.cases.iter().map(|case| (t.name, case.name)));
        let different = names.collect::<BTreeSet<_>>().len();
        let uncited =
            of_side().flat_map(|t| &t.cases).filter(|case| !case.breaks.contains(':')).count();
        if print {
            say(&format!("{side} side: {count} cases (at least {least})"));
        }
        trials.push(Trial::test(format!("{side} side has at least {least} cases"), move || {
            let good = count >= least && different == count && uncited == 0;
            let why = format!("{count} cases, {different} names, {uncited} that cite nothing");
            if good { Ok(()) } else { Err(Failed::from(why)) }
        }));
    }
    trials
}

#[allow(clippy::print_stdout, reason = "the counts are for whoever runs the tests")]
fn say(line: &str) {
    println!("{line}");
}
