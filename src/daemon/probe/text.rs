//! What `boardlane probe` found, for people.

#[cfg(feature = "pci")]
use super::functions::FunctionLine;
use super::list::List;
use super::window::{Content, Fill, Part, Place, Presence, Queue, Window};
use super::{Asked, Found};
use crate::daemon::columns::table;
use crate::daemon::status::visible;

/// The targets that have a window.
pub(super) fn all(all: &[Found]) -> String {
    let windows = all.iter().filter_map(|one| Some(found(one, one.window.as_ref()?)));
    windows.collect::<Vec<_>>().join("\n")
}

/// A target: the verdict, and then what it comes from.
fn found(found: &Found, window: &Window) -> String {
    let mut text = format!("{}: {}\n", visible(&found.target), visible(&found.verdict));
    let asked = found.asked.as_ref().map_or("nobody: mapped here, to be read only".into(), asked);
    let mut rows = vec![row(["asked", &asked])];
    if window.content == Content::Good {
        rows.push(row(["window", &first_line(window)]));
    }
    text += &format!("{}\n", table("  ", &rows));
    let is_written = window.content == Content::Good || window.parts().any(|part| part.held);
    if let (Some(board), Some(master), true) = (&window.board, &window.master, is_written) {
        text += &format!("\n{}\n", table("  ", &parts(window, [board, master])));
    }
    if !window.memory.is_empty() {
        let entries = window
            .memory
            .iter()
            .map(|m| row(["memory", &visible(&m.kind), &format!("{:#x}", m.addr), &size(m.len)]));
        text += &format!("\n{}\n", table("  ", &entries.collect::<Vec<_>>()));
    }
    if !found.queues.is_empty() {
        text += &format!("\n{}\n", table("  ", &queues(&found.queues)));
    }
    text
}

fn asked(asked: &Asked) -> String {
    let Asked { role, pid, link, state, .. } = asked;
    format!("{}, pid {pid}: {} is {}", visible(role), visible(link), state.name())
}

fn first_line(window: &Window) -> String {
    let flags = match &window.flags[..] {
        [] => "no flags".to_owned(),
        flags => visible(&format!("flags {}", flags.join(" "))),
    };
    let slot = window.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
    let (layout, header) = (window.layout, window.header_len);
    format!("layout {layout}, {}, header of {header} bytes, {flags}{slot}", size(window.len))
}

/// The two ends side by side.
fn parts(window: &Window, ends: [&Part; 2]) -> Vec<Vec<String>> {
    let line = |name: &str, of: &dyn Fn(&Part) -> String| {
        let [board, master] = ends.map(of);
        row([name, &board, &master])
    };
    let beats = |part: &Part| match part.moves {
        Some(true) => format!("{}, moves", part.heartbeat),
        Some(false) if part.beats() => format!("{}, stands still", part.heartbeat),
        _ => part.heartbeat.to_string(),
    };
    let owner = |part: &Part| match part.presence {
        _ if !part.held => "nobody".to_owned(),
        Presence::Attached => format!("{}, attached", part.owner),
        Presence::Gone => format!("{}, gone", part.owner),
        Presence::Unknown => part.owner.to_string(),
    };
    let vectors = |part: &Part| {
        let polls = if part.vectors == 0 { ", polls" } else { "" };
        let mute = if part.flags.iter().any(|flag| flag == "mute") { ", rings nobody" } else { "" };
        format!("{}{polls}{mute}", part.vectors)
    };
    let mailbox = |part: &Part| format!("{}, {} slots", place(&part.mailbox), part.slots);
    let [to_board, to_master] = [&window.to_board, &window.to_master].map(fill);
    vec![
        row(["", "board", "master"]),
        line("state", &|part| visible(&part.state)),
        line("epoch", &|part| format!("{:#010x}", part.epoch)),
        line("echo", &|part| format!("{:#010x}", part.echo)),
        line("heartbeat", &beats),
        line("owner", &owner),
        line("vectors", &vectors),
        line("mailbox", &mailbox),
        row(["messages", &to_board, &to_master]),
    ]
}

/// What has come to an end.
fn fill(fill: &Option<Fill>) -> String {
    match fill {
        None => "-".into(),
        Some(Fill { put, waiting: Some(waiting), .. }) => format!("{put} came, {waiting} wait"),
        Some(Fill { put, taken, .. }) => format!("{put} came, {taken} taken: a count jumps"),
    }
}

fn queues(queues: &[Queue]) -> Vec<Vec<String>> {
    let head = ["queue", "size", "enabled", "descriptors", "driver area", "device area"];
    let line = |queue: &Queue| {
        let areas = [&queue.descriptors, &queue.driver_area, &queue.device_area].map(place);
        let enabled = if queue.enabled { "yes" } else { "no" };
        let first = [visible(&queue.name), queue.size.to_string(), enabled.to_owned()];
        first.into_iter().chain(areas).collect()
    };
    [row(head)].into_iter().chain(queues.iter().map(line)).collect()
}

fn place(place: &Place) -> String {
    let memory = place.memory.as_deref().map_or("nowhere".into(), visible);
    format!("{:#x} {memory}", place.addr)
}

/// A length, in the unit in which it is whole.
fn size(bytes: u64) -> String {
    match bytes {
        0 => "0 bytes".into(),
        n if n % (1 << 30) == 0 => format!("{} GiB", n >> 30),
        n if n % (1 << 20) == 0 => format!("{} MiB", n >> 20),
        n if n % (1 << 10) == 0 => format!("{} KiB", n >> 10),
        n => format!("{n} bytes"),
    }
}

/// All that could be looked at.
pub(super) fn list(list: &List) -> String {
    let mut text = String::new();
    let mut section = |title: &str, rows: Vec<Vec<String>>| {
        let rows = if rows.is_empty() { vec![row(["none"])] } else { rows };
        text += &format!("{title}\n{}\n", table("  ", &rows));
    };
    #[cfg(feature = "pci")]
    section("PCI functions of a known kind", list.functions.iter().map(function).collect());
    let slots = list.slots.iter().map(|path| row([&format!("shm:{}", visible(path))]));
    section("slots of a backplane", slots.collect());
    let links = list.links.iter().map(|link| {
        let by = format!("{}, pid {}", visible(&link.asked.role), link.asked.pid);
        let (name, state) = (visible(&link.asked.link), link.asked.state.name());
        let reason = link.reason.as_deref().map(visible).unwrap_or_default();
        row([&name, state, &by, &visible(&link.transport), &reason])
    });
    section("links of daemons that run", links.collect());
    text
}

/// A function, and what it is with.
#[cfg(feature = "pci")]
fn function(line: &FunctionLine) -> Vec<String> {
    let driver =
        line.driver.as_deref().map_or("no driver".to_owned(), |name| format!("driver {name}"));
    let group = line.group.map_or("no IOMMU group".to_owned(), |n| format!("IOMMU group {n}"));
    let enabled = if line.enabled { "enabled" } else { "disabled" };
    let fault = line.fault.as_deref().unwrap_or_default();
    row([&format!("pci:{}", line.address), &line.ids, &line.kind, &driver, &group, enabled, fault])
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}
