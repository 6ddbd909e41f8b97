//! The list of objectives by name: description, constructor, and the search that suggests the nearest name.

use crate::describe::Description;
use crate::error::ObjectiveError;
use crate::losses::{
    AlphaPo, Aot, AotUnpaired, ApoDown, ApoZero, BcoPair, Cdpo, Cpo, DiscoPop, Dpo, Dpop, ExoPair,
    Hinge, Ipo, Kto, NcaPair, Orpo, RDpo, Robust, Rpo, Rrhf, Sft, SigmoidNorm, SimPo, Slic, Sppo,
};
use crate::objective::Objective;
use crate::options::ObjectiveOptions;

/// A name's entry in the list of objectives.
pub(crate) struct Entry {
    pub(crate) description: &'static Description,
    pub(crate) build: fn(&ObjectiveOptions) -> Result<Objective, ObjectiveError>,
    /// Whether it has scores that an f-divergence can replace (or, like `sft`, none that it could spoil).
    pub(crate) takes_divergence: bool,
}

/// All objectives, Table 2 of the entanglement paper first.
pub(crate) static REGISTRY: [Entry; 26] = [
    entry(
        &Dpo::DESCRIPTION,
        |o| Dpo::from_options(o).map(Objective::Dpo),
        true,
    ),
    entry(
        &RDpo::DESCRIPTION,
        |o| RDpo::from_options(o).map(Objective::RDpo),
        false,
    ),
    entry(
        &SimPo::DESCRIPTION,
        |o| SimPo::from_options(o).map(Objective::SimPo),
        false,
    ),
    entry(
        &Ipo::DESCRIPTION,
        |o| Ipo::from_options(o).map(Objective::Ipo),
        true,
    ),
    entry(
        &Rrhf::DESCRIPTION,
        |o| Rrhf::from_options(o).map(Objective::Rrhf),
        false,
    ),
    entry(
        &Slic::DESCRIPTION,
        |o| Slic::from_options(o).map(Objective::Slic),
        false,
    ),
    entry(
        &Cpo::DESCRIPTION,
        |o| Cpo::from_options(o).map(Objective::Cpo),
        false,
    ),
    entry(
        &Dpop::DESCRIPTION,
        |o| Dpop::from_options(o).map(Objective::Dpop),
        false,
    ),
    entry(
        &Kto::DESCRIPTION,
        |o| Kto::from_options(o).map(Objective::KtoPair),
        false,
    ),
    entry(
        &Sppo::DESCRIPTION,
        |o| Sppo::from_options(o).map(Objective::Sppo),
        false,
    ),
    entry(
        &Hinge::DESCRIPTION,
        |o| Hinge::from_options(o).map(Objective::Hinge),
        true,
    ),
    entry(
        &Cdpo::DESCRIPTION,
        |o| Cdpo::from_options(o).map(Objective::Cdpo),
        true,
    ),
    entry(
        &Robust::DESCRIPTION,
        |o| Robust::from_options(o).map(Objective::Robust),
        true,
    ),
    entry(
        &SigmoidNorm::DESCRIPTION,
        |o| SigmoidNorm::from_options(o).map(Objective::SigmoidNorm),
        true,
    ),
    entry(
        &ExoPair::DESCRIPTION,
        |o| ExoPair::from_options(o).map(Objective::ExoPair),
        true,
    ),
    entry(
        &NcaPair::DESCRIPTION,
        |o| NcaPair::from_options(o).map(Objective::NcaPair),
        false,
    ),
    entry(
        &BcoPair::DESCRIPTION,
        |o| BcoPair::from_options(o).map(Objective::BcoPair),
        false,
    ),
    entry(
        &Aot::DESCRIPTION,
        |o| Aot::from_options(o).map(Objective::AotPair),
        false,
    ),
    entry(
        &AotUnpaired::DESCRIPTION,
        |o| AotUnpaired::from_options(o).map(Objective::Aot),
        false,
    ),
    entry(
        &ApoZero::DESCRIPTION,
        |o| ApoZero::from_options(o).map(Objective::ApoZero),
        false,
    ),
    entry(
        &ApoDown::DESCRIPTION,
        |o| ApoDown::from_options(o).map(Objective::ApoDown),
        false,
    ),
    entry(
        &DiscoPop::DESCRIPTION,
        |o| DiscoPop::from_options(o).map(Objective::DiscoPop),
        true,
    ),
    entry(
        &Orpo::DESCRIPTION,
        |o| Orpo::from_options(o).map(Objective::Orpo),
        false,
    ),
    entry(
        &Rpo::DESCRIPTION,
        |o| Rpo::from_options(o).map(Objective::Rpo),
        true,
    ),
    entry(
        &AlphaPo::DESCRIPTION,
        |o| AlphaPo::from_options(o).map(Objective::AlphaPo),
        false,
    ),
    entry(
        &Sft::DESCRIPTION,
        |o| Sft::from_options(o).map(Objective::Sft),
        true,
    ),
];

const fn entry(
    description: &'static Description,
    build: fn(&ObjectiveOptions) -> Result<Objective, ObjectiveError>,
    takes_divergence: bool,
) -> Entry {
    Entry {
        description,
        build,
        takes_divergence,
    }
}

/// The entry with this name or alias.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    let name = name.trim().to_lowercase().replace('-', "_");
    REGISTRY.iter().find(|entry| {
        entry.description.name == name || entry.description.aliases.contains(&name.as_str())
    })
}

/// The error for a name that no objective has.
pub(crate) fn unknown(name: &str) -> ObjectiveError {
    let wanted = name.trim().to_lowercase().replace('-', "_");
    let all = REGISTRY.iter().flat_map(|entry| {
        std::iter::once(entry.description.name).chain(entry.description.aliases.iter().copied())
    });
    let nearest = all
        .min_by_key(|known| edit_distance(&wanted, known))
        .unwrap_or("sigmoid");
    let known = Objective::all_names().join(", ");
    ObjectiveError::UnknownObjective {
        name: name.to_owned(),
        nearest,
        known,
    }
}

/// Levenshtein distance between two short names.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
