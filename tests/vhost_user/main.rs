//! An agent that serves vhost-user front-ends, as the front-end sees it: a numbered stream goes out by its
//! echo and comes back while either end goes away and comes again, or does what it should not.
//!
//! No privilege is needed but for one case; root's run is `nobody`'s. The cases run one after the other: some count what
//! this process holds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod front_end;
mod hostile;
mod kills;
mod reconnects;
mod site;
mod stream;
mod table;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// An error says what is missing to run it.
type Case = fn() -> Result<(), String>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let cases: [(&'static str, Case); 5] = [
        ("a_stream_goes_on_after_each_of_20_kills_of_the_agent", || {
            kills::kills_alter_nothing_and_lose_and_repeat_little();
            Ok(())
        }),
        ("a_hundred_front_ends_lose_nothing_and_leave_nothing", || {
            reconnects::a_hundred_front_ends_lose_nothing_and_leave_nothing();
            Ok(())
        }),
        ("what_a_front_end_does_wrong_is_its_own_affair", || {
            hostile::what_a_front_end_does_wrong_is_its_own_affair();
            Ok(())
        }),
        ("doorbells_that_do_not_behave_hold_up_nobody", || {
            hostile::doorbells_that_do_not_behave_hold_up_nobody();
            Ok(())
        }),
        ("descriptors_that_linger_hold_up_nobody", hostile::descriptors_that_linger_hold_up_nobody),
    ];
    let trials = cases.map(|(name, case)| {
        Trial::ignorable_test(name, move || match case() {
            Ok(()) => Ok(Completion::Completed),
            Err(reason) if strict => Err(Failed::from(format!("cannot run: {reason}"))),
            Err(reason) => Ok(Completion::ignored_with(reason)),
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}
