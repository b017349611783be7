//! The demo's measurements: the ping matrix, each link's round trips, its throughput each way.

use std::io;
use std::time::Duration;

use super::console::Console;
use super::layout::{self, Layout, Machine, link_name};
use super::report::{self, LinkReport, Rates, Report, RoundTrip};
use super::{Demo, Error};
use crate::daemon::status::LinkStatus;
use crate::daemon::traffic::{Echoes, Ping, TcpTest, Throughput, ping, ping_all, tcp_throughput};

/// Rows of the matrix that are measured at the same time: a machine that answers nobody costs each
/// row its timeouts.
const ROWS_AT_ONCE: usize = 8;
/// Requests per cell.
const MATRIX_ROUNDS: u16 = 5;
/// Requests per link and address family.
const LINK_ROUNDS: u16 = 20;

impl Demo<'_> {
    /// Measures everything, telling people as it goes.
    ///
    /// # Errors
    /// A signal; no raw sockets; standard output is gone. Loss and silence are results.
    pub(super) fn measure(&mut self, links: Vec<LinkStatus>) -> Result<Report, Error> {
        let names: Vec<_> = self.layout.machines().map(Machine::name).collect();
        let matrix = self.matrix()?;
        let text = report::matrix_text(&names, &matrix);
        self.console.say(&format!("\nPing, loss from row to column\n{text}"))?;

        let mut reports = Vec::new();
        for (slot, link) in (0..self.layout.boards).zip(links) {
            self.console.progress(&format!("round trips of {}", link.name));
            reports.push(LinkReport {
                board: slot,
                name: link.name,
                features: link.features,
                ping_us: RoundTrip::from(&self.round_trips(layout::v4(slot, 2))?),
                tcp_gbit_s: Rates::default(),
                ping6: match self.layout.ipv6() {
                    true => Some(self.round_trips(layout::v6(slot, 2))?),
                    false => None,
                },
            });
        }
        let text = report::round_trips_text(&reports);
        self.console.say(&format!("\nRound trips\n{text}"))?;

        let seconds = self.options.seconds;
        self.console
            .say(&format!("\nThroughput, one TCP connection, {seconds} s in each direction"))?;
        for (slot, link) in (0..self.layout.boards).zip(reports.iter_mut()) {
            let board = Machine::Board(slot);
            link.tcp_gbit_s.to_board = self.rate(board, layout::v4(slot, 2), slot)?;
            link.tcp_gbit_s.from_board = self.rate(Machine::Master, layout::v4(slot, 1), slot)?;
            self.console.say(&report::rates_text(&link.name, slot, link.tcp_gbit_s))?;
        }
        Ok(Report::new(reports, matrix))
    }

    /// Loss from every machine to every machine, in percent.
    fn matrix(&mut self) -> Result<Vec<Vec<f64>>, Error> {
        let machines: Vec<_> = self.layout.machines().collect();
        let targets: Vec<_> = machines.iter().map(|machine| Layout::address(*machine)).collect();
        let plan = Ping { count: MATRIX_ROUNDS, ..Ping::default() };
        let mut matrix = Vec::new();
        for some in machines.chunks(ROWS_AT_ONCE) {
            self.check_stop()?;
            self.console.progress(&format!("pings: {} of {} rows", matrix.len(), machines.len()));
            let (demo, targets) = (&*self, &targets);
            let rows = std::thread::scope(|scope| {
                let spawn = |machine: &Machine| {
                    let name = demo.layout.namespace(*machine);
                    let row = move || {
                        demo.scene.run_in(&name, "send echo requests", || {
                            ping_all(targets, &plan, &demo.stop)
                        })
                    };
                    std::thread::Builder::new().spawn_scoped(scope, row)
                };
                let threads: Vec<_> = some.iter().map(spawn).collect();
                threads.into_iter().map(join).collect::<Vec<_>>()
            });
            for row in rows {
                let row = row.map_err(|error| self.or_interrupted(error))?;
                matrix.push(row.iter().map(loss_percent).collect());
            }
        }
        Ok(matrix)
    }

    fn round_trips(&self, target: std::net::IpAddr) -> Result<Echoes, Error> {
        let plan = Ping { count: LINK_ROUNDS, ..Ping::default() };
        let master = self.layout.namespace(Machine::Master);
        self.scene
            .run_in(&master, "send echo requests", || ping(target, &plan, &self.stop))
            .map_err(|error| self.or_interrupted(error))
    }

    /// Gigabits per second over a link towards one of its ends; zero where no connection comes about.
    fn rate(&mut self, to: Machine, address: std::net::IpAddr, slot: u8) -> Result<f64, Error> {
        let from = if to == Machine::Master { Machine::Board(slot) } else { Machine::Master };
        let label = format!("{}: {} to {}", link_name(slot), from.name(), to.name());
        self.console.progress(&label);
        let server = self.scene.namespace(&self.layout.namespace(to))?;
        let client = self.scene.namespace(&self.layout.namespace(from))?;
        let seconds = self.options.seconds;
        let test =
            TcpTest { duration: Duration::from_secs(seconds.into()), streams: 1, congestion: None };
        let console = &mut self.console;
        let mut tell = |so_far: Throughput| show(console, &label, so_far, seconds);
        match tcp_throughput(server, client, address, &test, &self.stop, &mut tell) {
            // To a millionth: what flows at all is above zero.
            Ok(result) => Ok((result.gbit_s() * 1e6).ceil() / 1e6),
            Err(_) if self.check_stop().is_err() => Err(Error::Interrupted),
            Err(error) => {
                self.console.warn(&format!("{label}: {error}"));
                Ok(0.0)
            }
        }
    }

    /// An error that came because of a signal is that of the signal.
    fn or_interrupted(&self, error: Error) -> Error {
        self.check_stop().err().unwrap_or(error)
    }
}

fn show(console: &mut Console, label: &str, so_far: Throughput, seconds: u32) {
    let elapsed = so_far.elapsed.as_secs_f64();
    console
        .progress(&format!("{label}: {elapsed:.1} of {seconds} s, {:.2} Gbit/s", so_far.gbit_s()));
}

fn loss_percent(echoes: &Echoes) -> f64 {
    (echoes.loss_percent() * 10.0).round() / 10.0
}

type Row = Result<Vec<Echoes>, Error>;

fn join(thread: io::Result<std::thread::ScopedJoinHandle<'_, Row>>) -> Row {
    let failed = |error| Error::Measure("the ping matrix".to_owned(), error);
    let thread = thread.map_err(failed)?;
    thread.join().map_err(|_| failed(io::Error::other("a thread panicked")))?
}
