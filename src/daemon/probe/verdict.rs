//! What a window comes to, in one line for people.

use super::window::{Content, Part, Presence, Window};
use crate::tunnel::part::{Reason, Role};

/// The line.
pub(super) fn verdict(window: &Window) -> String {
    match window.content {
        Content::Good => format!("window is good, {}", ends(window)),
        Content::Empty => {
            let master = window.master.as_ref().filter(|part| part.held);
            let master = master.map(|part| format!(", {}", end(part, Role::Driver)));
            format!("no agent has written this window{}", master.unwrap_or_default())
        }
        Content::Dead => Reason::AllOnes.to_string(),
        Content::Version => Reason::Version(window.layout).to_string(),
        Content::Other => format!(
            "no agent has written this window: it begins with {:#018x}, which is not its magic",
            window.magic
        ),
    }
}

fn ends(window: &Window) -> String {
    if window.up && window.parts().all(|part| !is_lost(part)) {
        return "board and master are up".into();
    }
    let board = window.board.iter().map(|part| end(part, Role::Device));
    let master = window.master.iter().map(|part| end(part, Role::Driver));
    board.chain(master).collect::<Vec<_>>().join(", ")
}

/// Whether it does not live, by what can be seen.
fn is_lost(part: &Part) -> bool {
    part.presence == Presence::Gone || part.moves == Some(false)
}

fn end(part: &Part, role: Role) -> String {
    let name = role.name();
    let daemon = if role == Role::Device { "agent" } else { "master" };
    match &*part.state {
        "shutdown" if !part.held => format!("{name} has stopped"),
        _ if !part.held => format!("no {daemon} attached"),
        _ if part.presence == Presence::Gone => Reason::Gone(role).to_string(),
        _ if part.beats() && part.moves == Some(false) => Reason::Silent(role).to_string(),
        "init" => format!("{name} is starting"),
        "ready" => format!("{name} is ready"),
        "run" => format!("{name} runs"),
        "shutdown" => format!("{name} is stopping"),
        other => format!("{name} is in state {other}, which means nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::probe::tests::{part, window};

    fn said(change: impl FnOnce(&mut Window)) -> String {
        let mut window = window();
        change(&mut window);
        verdict(&window)
    }

    fn of_master(change: impl FnOnce(&mut Part)) -> String {
        said(|window| {
            window.up = false;
            change(window.master.as_mut().unwrap());
        })
    }

    #[test]
    fn each_content_has_its_line() {
        assert_eq!(said(|_| ()), "window is good, board and master are up");
        let empty = |held| {
            said(|window| {
                let master = Part { held, state: "ready".into(), ..part() };
                (window.content, window.master) = (Content::Empty, Some(master));
            })
        };
        assert_eq!(empty(false), "no agent has written this window");
        assert_eq!(empty(true), "no agent has written this window, master is ready");
        let dead = "window reads as all ones: board is in reset or off the bus";
        assert_eq!(said(|window| window.content = Content::Dead), dead);
        let newer = said(|window| (window.content, window.layout) = (Content::Version, 7));
        assert!(newer.starts_with("window has layout version 7, this program has 1"), "{newer}");
        let other = said(|window| (window.content, window.magic) = (Content::Other, 0x1234));
        assert!(
            other.ends_with("begins with 0x0000000000001234, which is not its magic"),
            "{other}"
        );
    }

    #[test]
    fn an_end_is_told_by_its_owner_its_heartbeat_and_its_state() {
        type Change = fn(&mut Part);
        let cases: [(Change, &str); 8] = [
            (|part| part.held = false, "no master attached"),
            (|part| (part.held, part.state) = (false, "shutdown".into()), "master has stopped"),
            (|part| part.presence = Presence::Gone, "master is gone"),
            (|part| part.moves = Some(false), "master is silent: its heartbeat stands still"),
            (|part| part.state = "init".into(), "master is starting"),
            (|part| part.state = "ready".into(), "master is ready"),
            (|part| part.state = "shutdown".into(), "master is stopping"),
            (|part| part.state = "9".into(), "master is in state 9, which means nothing"),
        ];
        for (change, expected) in cases {
            assert_eq!(of_master(change), format!("window is good, board runs, {expected}"));
        }
    }

    #[test]
    fn ends_that_run_with_each_other_are_up_only_while_both_live() {
        let silent = said(|window| window.board.as_mut().unwrap().moves = Some(false));
        assert!(silent.starts_with("window is good, board is silent"), "{silent}");
        let unknown = said(|window| window.board.as_mut().unwrap().presence = Presence::Unknown);
        assert!(unknown.ends_with("are up"), "{unknown}");
    }
}
