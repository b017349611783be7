//! Seeds run clean, planted bugs are found, runs replay, far memory is not read. (`boardlane::sim`)

#![allow(clippy::print_stdout, reason = "it says where a planted bug was found")]

use std::time::Instant;

use boardlane::planted::Bug;
use boardlane::sim::{Report, Run, simulate};

const STEPS: u64 = 50_000;
/// Seeds in which a planted bug must be found.
const SEEDS: std::ops::Range<u64> = 1..301;

fn run(seed: u64, steps: u64, bug: Option<Bug>) -> Report {
    simulate(Run { seed, steps, links: 2, bug, tell: None }, Instant::now())
}

/// The seeds' reports, two threads sharing the work.
fn each<T: Sync, R: Send>(of: &[T], report: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut done: Vec<(usize, R)> = std::thread::scope(|s| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(one) = of.get(at) else { break done };
                done.push((at, report(one)));
            }
        };
        let others = s.spawn(work);
        let mut done = work();
        done.extend(others.join().expect("a violation is a report, not a panic"));
        done
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, report)| report).collect()
}

#[test]
fn seeds_run_clean_through_faults_of_every_kind() {
    let seeds: Vec<u64> = (1..21).collect();
    let reports = each(&seeds, |seed| run(*seed, 100_000, None));
    let mut faults = [0; boardlane::sim::Fault::ALL.len()];
    for (seed, report) in seeds.iter().zip(&reports) {
        let Report { violation, last, .. } = report;
        assert!(violation.is_none(), "seed {seed}: {violation:?}\n{}", last.join("\n"));
        assert!(report.frames > 1000 && report.rounds > 0, "seed {seed}: {report}");
        faults.iter_mut().zip(report.faults).for_each(|(all, some)| *all += some);
    }
    assert!(faults.iter().all(|count| *count > 0), "{faults:?}");
    assert!(reports.iter().any(|report| report.lost > 0));
    assert!(reports.iter().any(|report| report.stale_loads > 0));
}

#[test]
fn every_planted_bug_is_found_and_the_same_seed_without_it_is_clean() {
    let found = each(&Bug::ALL, |bug| {
        let found = SEEDS.into_iter().find_map(|seed| {
            let report = run(seed, STEPS, Some(*bug));
            Some((seed, report.steps, report.violation?))
        });
        let clean = found.as_ref().is_none_or(|f| run(f.0, STEPS, None).violation.is_none());
        (found, clean)
    });
    for (bug, (found, clean)) in Bug::ALL.iter().zip(&found) {
        match found {
            Some((seed, step, what)) => println!("{bug:?}: seed {seed}, step {step}: {what}"),
            None => println!("{bug:?}: not found"),
        }
        assert!(clean, "{bug:?}: the seed is not clean without it");
    }
    assert!(found.iter().all(|(found, _)| found.is_some()), "in {SEEDS:?}");
}

#[test]
fn a_seed_replays() {
    for seed in [3, 33] {
        let [first, again] = [0, 1].map(|_| run(seed, STEPS, None));
        assert_eq!(first, again);
        assert_ne!(first.digest, run(seed + 1, STEPS, None).digest);
    }
    // Up to a violation too.
    let [first, again] = [0, 1].map(|_| run(2, STEPS, Some(Bug::UsedLength)));
    assert!(first.violation.is_some());
    assert_eq!(first, again);
}
