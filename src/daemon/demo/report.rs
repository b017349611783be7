//! What the demo found: as the one JSON object, and as text for people.

use std::time::Duration;

use serde::Serialize;

use crate::daemon::columns::table;
use crate::daemon::traffic::Echoes;

/// Up to this many machines the ping matrix is drawn; beyond, only cells with loss are named.
const MATRIX_DRAWN_MAX: usize = 12;
/// Cells with loss that are named at most.
const LOSSES_MAX: usize = 20;

/// The result of a demo.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// No loss in any cell of the matrix, and every throughput above zero.
    pub(super) ok: bool,
    /// One per board, in slot order.
    pub(super) links: Vec<LinkReport>,
    /// Loss in percent from each machine (row) to each (column): the master, then the boards.
    pub(super) matrix: Vec<Vec<f64>>,
}

/// What was found about one link.
#[derive(Debug, Serialize)]
pub(super) struct LinkReport {
    /// The board's number.
    pub(super) board: u8,
    /// The master's netdev.
    pub(super) name: String,
    /// What was negotiated.
    pub(super) features: Vec<String>,
    /// Round trips over IPv4 from the master.
    pub(super) ping_us: RoundTrip,
    /// Payload of one TCP connection.
    pub(super) tcp_gbit_s: Rates,
    /// Round trips over IPv6, if the link carries it; not part of the object.
    #[serde(skip)]
    pub(super) ping6: Option<Echoes>,
}

/// Round trips in microseconds; null where no reply came.
#[derive(Debug, Default, Serialize)]
pub(super) struct RoundTrip {
    /// The shortest.
    pub(super) min: Option<f64>,
    /// The mean.
    pub(super) avg: Option<f64>,
    /// The longest.
    pub(super) max: Option<f64>,
}

/// Throughput in gigabits per second.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Rates {
    /// From the master to the board.
    pub(super) to_board: f64,
    /// From the board to the master.
    pub(super) from_board: f64,
}

impl From<&Echoes> for RoundTrip {
    fn from(echoes: &Echoes) -> Self {
        let Some(average) = echoes.average() else { return Self::default() };
        let us = |time: Duration| Some((time.as_secs_f64() * 1e7).round() / 10.0);
        Self { min: us(echoes.min), avg: us(average), max: us(echoes.max) }
    }
}

impl RoundTrip {
    fn describe(&self) -> String {
        match (self.min, self.avg, self.max) {
            (Some(min), Some(avg), Some(max)) => format!("{min:.1} / {avg:.1} / {max:.1}"),
            _ => "no reply".to_owned(),
        }
    }
}

impl Report {
    /// Puts the parts together and judges them.
    pub(super) fn new(links: Vec<LinkReport>, matrix: Vec<Vec<f64>>) -> Self {
        let lossless = matrix.iter().flatten().all(|loss| *loss == 0.0);
        let flowing = |rates: &Rates| rates.to_board > 0.0 && rates.from_board > 0.0;
        let ok = lossless && links.iter().all(|link| flowing(&link.tcp_gbit_s));
        Self { ok, links, matrix }
    }

    /// The object of `--json`, on one line.
    ///
    /// # Errors
    /// None: all keys are strings and all numbers finite.
    pub(super) fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

/// The features of each link; said once if all have the same.
pub(super) fn features_text(links: &[(String, Vec<String>)]) -> String {
    let same = links.windows(2).all(|pair| pair[0].1 == pair[1].1);
    match links.first() {
        Some((_, features)) if same => format!("  all links: {}", features.join(" ")),
        _ => table(
            "  ",
            &links
                .iter()
                .map(|(name, list)| vec![name.clone(), list.join(" ")])
                .collect::<Vec<_>>(),
        ),
    }
}

/// The ping matrix: drawn while it fits, else the cells with loss.
pub(super) fn matrix_text(names: &[String], matrix: &[Vec<f64>]) -> String {
    if names.len() <= MATRIX_DRAWN_MAX {
        let mut rows = vec![Vec::from([String::new()])];
        rows[0].extend(names.iter().cloned());
        for (name, row) in names.iter().zip(matrix) {
            let mut cells = vec![name.clone()];
            cells.extend(row.iter().map(|loss| format!("{loss:.0}%")));
            rows.push(cells);
        }
        return table("  ", &rows);
    }
    let mut lossy = Vec::new();
    for (from, row) in names.iter().zip(matrix) {
        for (to, loss) in names.iter().zip(row).filter(|(_, loss)| **loss > 0.0) {
            lossy.push(format!("  {from} to {to}: {loss:.0}% lost"));
        }
    }
    if lossy.is_empty() {
        return format!("  {0} x {0} machines: nothing lost", names.len());
    }
    let more = lossy.len().saturating_sub(LOSSES_MAX);
    lossy.truncate(LOSSES_MAX);
    if more > 0 {
        lossy.push(format!("  and {more} more with loss"));
    }
    lossy.join("\n")
}

/// Round trips of each link.
pub(super) fn round_trips_text(links: &[LinkReport]) -> String {
    let mut rows = vec![
        ["link", "board", "IPv4 min / avg / max µs", "IPv6 min / avg / max µs"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for link in links {
        let v6 = link.ping6.as_ref().map_or_else(
            || "-".to_owned(),
            |echoes| match echoes.loss_percent() {
                0.0 => RoundTrip::from(echoes).describe(),
                loss => format!("{} ({loss:.0}% lost)", RoundTrip::from(echoes).describe()),
            },
        );
        rows.push(vec![
            link.name.clone(),
            format!("board{}", link.board),
            link.ping_us.describe(),
            v6,
        ]);
    }
    table("  ", &rows)
}

/// One line of the throughput table.
pub(super) fn rates_text(name: &str, board: u8, rates: Rates) -> String {
    format!(
        "  {name:<5} to board{board:<3} {:>7.2} Gbit/s    from board{board:<3} {:>7.2} Gbit/s",
        rates.to_board, rates.from_board
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(board: u8, to_board: f64) -> LinkReport {
        let us = Duration::from_micros;
        let echoes =
            Echoes { sent: 2, received: 2, min: us(10), max: us(21), total: us(10) + us(21) };
        LinkReport {
            board,
            name: format!("bl{board}"),
            features: vec!["VERSION_1".to_owned()],
            ping_us: RoundTrip::from(&echoes),
            tcp_gbit_s: Rates { to_board, from_board: 2.0 },
            ping6: Some(echoes),
        }
    }

    #[test]
    fn the_object_has_the_agreed_keys_and_no_others() {
        let report = Report::new(vec![link(0, 1.5)], vec![vec![0.0, 0.0], vec![0.0, 0.0]]);
        let found: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        let expected = serde_json::json!({
            "ok": true,
            "links": [{
                "board": 0, "name": "bl0", "features": ["VERSION_1"],
                "ping_us": {"min": 10.0, "avg": 15.5, "max": 21.0},
                "tcp_gbit_s": {"to_board": 1.5, "from_board": 2.0},
            }],
            "matrix": [[0.0, 0.0], [0.0, 0.0]],
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn one_lost_ping_or_one_silent_direction_is_not_ok() {
        let clean = || vec![vec![0.0; 2]; 2];
        assert!(Report::new(vec![link(0, 1.0)], clean()).ok);
        assert!(!Report::new(vec![link(0, 0.0)], clean()).ok);
        let mut lossy = clean();
        lossy[1][0] = 33.3;
        assert!(!Report::new(vec![link(0, 1.0)], lossy).ok);
    }

    #[test]
    fn without_replies_the_times_are_null() {
        let silent = RoundTrip::from(&Echoes { sent: 3, ..Echoes::default() });
        let text = serde_json::to_string(&silent).unwrap();
        assert_eq!(text, r#"{"min":null,"avg":null,"max":null}"#);
        assert_eq!(silent.describe(), "no reply");
    }

    #[test]
    fn a_small_matrix_is_drawn_and_a_large_one_told_by_its_losses() {
        let names: Vec<_> = (0..3).map(|n| format!("m{n}")).collect();
        let drawn = matrix_text(&names, &[vec![0.0; 3], vec![0.0, 50.0, 0.0], vec![0.0; 3]]);
        assert_eq!(drawn.lines().nth(2), Some("  m1  0%  50%  0%"));
        let names: Vec<_> = (0..20).map(|n| format!("m{n}")).collect();
        let mut matrix = vec![vec![0.0; 20]; 20];
        assert_eq!(matrix_text(&names, &matrix), "  20 x 20 machines: nothing lost");
        matrix[3] = vec![100.0; 20];
        matrix[4][7] = 10.0;
        let told = matrix_text(&names, &matrix);
        assert!(told.starts_with("  m3 to m0: 100% lost\n"), "{told}");
        assert!(told.ends_with("and 1 more with loss"), "{told}");
    }

    #[test]
    fn features_that_all_links_share_are_said_once() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut links =
            vec![("bl0".to_owned(), list(&["A", "B"])), ("bl1".to_owned(), list(&["A", "B"]))];
        assert_eq!(features_text(&links), "  all links: A B");
        links[1].1.pop();
        assert_eq!(features_text(&links), "  bl0  A B\n  bl1  A");
    }
}
