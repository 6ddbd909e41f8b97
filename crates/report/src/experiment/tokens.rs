//! Token heat maps at the start and at the end of training (paper, Figure 4(b)): a figure an arm, a tab a pair.

use std::path::{Component, Path};

use super::results::Results;
use crate::diagnosis::TokenMap;
use crate::figure::{Figure, Table};
use crate::page::stem;

/// Cells of all maps together: some ten megabytes of CSV.
const MAX_CELLS: usize = 250_000;

/// The figures of the maps that can be read; what cannot is noted.
pub(crate) fn figures(of: &Results, dir: &Path, notes: &mut Vec<String>) -> Vec<Figure> {
    let mut arms: Vec<&str> = Vec::new();
    for map in &of.heat_maps {
        if !arms.contains(&map.arm.as_str()) {
            arms.push(&map.arm);
        }
    }
    let mut cells = 0;
    let figures = arms.into_iter();
    figures
        .filter_map(|arm| figure(of, dir, arm, &mut cells, notes))
        .collect()
}

fn figure(
    of: &Results,
    dir: &Path,
    arm: &str,
    cells: &mut usize,
    notes: &mut Vec<String>,
) -> Option<Figure> {
    let mut table = Table::with_header(&["map", "row", "column", "cosine"]);
    let (mut panels, mut cut) = (Vec::new(), false);
    for file in of.heat_maps.iter().filter(|map| map.arm == arm) {
        let inside = Path::new(&file.file).components();
        if inside
            .into_iter()
            .any(|part| !matches!(part, Component::Normal(_)))
        {
            notes.push(format!(
                "heat map {} lies outside the experiment: left out",
                file.file
            ));
            continue;
        }
        let path = dir.join(&file.file);
        if !path.is_file() {
            notes.push(format!("heat map {} is missing", file.file));
            continue;
        }
        let Some(map) = TokenMap::read(&path, notes) else {
            continue;
        };
        *cells += map.cells();
        if *cells > MAX_CELLS {
            cut = true;
            continue;
        }
        let tab = format!("pair {}", map.index());
        let mut panel = map.cosines(&mut table, &format!("{tab}, {}", file.when));
        panel.tab = Some(tab);
        panels.push(panel);
    }
    if cut {
        notes.push(format!(
            "some heat maps of {arm} are too large for the page"
        ));
    }
    (!panels.is_empty()).then(|| Figure {
        id: format!("tokens-{}", stem(arm)),
        title: format!("Token gradients, {arm}"),
        caption: "Figure 4(b) of the paper, measured anew: each cell is the cosine between the gradients of a chosen token's (row) \
                  and a rejected token's (column) log-prob. Orange pulls together, so that pushing the rejected token down pushes \
                  the chosen one down too; blue pulls apart. Colour follows the square root of the cosine's size."
            .into(),
        command: of.command.clone(),
        panels,
        csv: table.into_csv(),
    })
}
