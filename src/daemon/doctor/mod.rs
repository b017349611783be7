//! `boardlane doctor`: looks whether this machine has what links need, and says what to do.
//!
//! Nothing is changed. What the machine says is gathered once (`Machine`), with bounds on everything
//! that could take time; each check is a function of that and of what the configs want (`Wanted`), so
//! tests can feed it machines that are made up. What no config needs is at most a warning.

mod bus;
mod kernel;
mod machine;
mod net;
mod service;
#[cfg(test)]
mod tests;
mod wanted;

use std::path::PathBuf;

use serde::Serialize;

use super::VERSION;
use super::config::ConfigError;
use super::status::visible;
use machine::Machine;
use wanted::Wanted;

/// What `boardlane doctor` is asked to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The configs whose links are to work; without any, those in `/etc/boardlane` that are there.
    pub files: Vec<PathBuf>,
    /// JSON instead of lines.
    pub json: bool,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is to do.
    Ok,
    /// Links work, but something is missing that may be missed, or is odd.
    Warn,
    /// What a config wants does not work.
    Fail,
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word.
    pub check: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::bad(false, check, found, remedy)
    }

    /// Something that does not work, or, if no config needs it, would not.
    fn bad(
        needed: bool,
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let verdict = if needed { Verdict::Fail } else { Verdict::Warn };
        Self { check, verdict, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// What was found, for standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The lines, or JSON.
    pub shown: String,
    /// Nothing fails.
    pub good: bool,
}

/// Looks at this machine. Needs a tokio runtime that has no thread of its own running; a process whose user
/// is not root is in a user namespace afterwards, and good for nothing but to tell.
///
/// # Errors
/// What is wrong in a config.
pub fn doctor(options: &Options) -> Result<Report, ConfigError> {
    let root = PathBuf::from("/");
    let wanted = Wanted::load(&options.files, &root)?;
    let findings = findings(&Machine::of_this(root, &wanted), &wanted);
    let good = findings.iter().all(|finding| finding.verdict != Verdict::Fail);
    let shown = if options.json { json(&findings, good) } else { text(&findings) };
    Ok(Report { shown, good })
}

/// All checks.
fn findings(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let checks: &[fn(&Machine, &Wanted) -> Vec<Finding>] = &[
        kernel::version,
        kernel::netdevs,
        kernel::walls,
        kernel::files,
        service::rights,
        service::configs,
        service::clashes,
        service::identity,
        service::units,
        service::daemons,
        service::leftovers,
        net::ipv6,
        net::forwarding,
        net::namespaces,
        net::masters,
        net::managers,
        bus::lockdown,
        #[cfg(feature = "pci")]
        bus::functions,
        #[cfg(feature = "uio")]
        bus::uio,
        bus::vhost_net,
        bus::sockets,
    ];
    checks.iter().flat_map(|check| check(machine, wanted)).collect()
}

fn text(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let remedy = finding.remedy.as_ref().map(|remedy| format!(": {remedy}"));
        let said = visible(&format!("{}{}", finding.found, remedy.unwrap_or_default()));
        format!("{verdict}  {:<10}  {said}\n", finding.check)
    };
    findings.iter().map(line).collect()
}

/// As JSON, of which later versions only add.
fn json(findings: &[Finding], ok: bool) -> String {
    serde_json::json!({ "version": VERSION, "ok": ok, "findings": findings }).to_string() + "\n"
}
