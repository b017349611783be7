//! What a figure is, how it compares, and what is wanted of it.

use crate::subject::Plan;
use crate::work::Work;

/// Figures that are measured of the same subjects.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) subjects: &'static [Plan],
    pub(crate) measurements: &'static [Measurement],
}

/// What one piece of work tells of a subject.
pub(crate) struct Measurement {
    pub(crate) work: Work,
    /// In the order of the work's values.
    pub(crate) figures: &'static [Figure],
}

impl Measurement {
    /// Its name, in a few words.
    pub(crate) fn name(&self) -> &'static str {
        let name = self.figures.first().map_or("", |figure| figure.name);
        name.split(',').next().unwrap_or_default()
    }
}

pub(crate) struct Figure {
    /// What it is, and its unit.
    pub(crate) name: &'static str,
    pub(crate) comparisons: &'static [Comparison],
}

/// The ratio of two subjects, or one subject's own figure.
pub(crate) struct Comparison {
    pub(crate) of: &'static str,
    pub(crate) to: Option<&'static str>,
    pub(crate) target: Option<Target>,
}

/// What a comparison's median is wanted to be.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    /// By how much a value misses it; `None` if it is met.
    pub(crate) fn missed_by(self, value: f64) -> Option<f64> {
        let by = match self {
            Self::AtLeast(least) => least - value,
            Self::AtMost(most) => value - most,
        };
        // A value that is not there meets nothing.
        (by.is_nan() || by > 0.0).then_some(by)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
        }
    }
}

pub(crate) const fn ratio(of: &'static str, to: &'static str) -> Comparison {
    Comparison { of, to: Some(to), target: None }
}

pub(crate) const fn at_least(of: &'static str, to: &'static str, least: f64) -> Comparison {
    Comparison { of, to: Some(to), target: Some(Target::AtLeast(least)) }
}

pub(crate) const fn at_most(of: &'static str, to: &'static str, most: f64) -> Comparison {
    Comparison { of, to: Some(to), target: Some(Target::AtMost(most)) }
}

pub(crate) const fn limit(of: &'static str, most: f64) -> Comparison {
    Comparison { of, to: None, target: Some(Target::AtMost(most)) }
}
