//! A task whose every number is known: it pulls the parameters towards a point that depends on the step.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unbraid_model::weights::StoredDtype;
use unbraid_model::{Gradients, LanguageModel};
use unbraid_tensor::{Backend, CpuBackend};
use unbraid_train::{
    Averages, Cadence, Checkpoint, Files, Observer, OptimizerKind, Outcome, RunIdentity, Sampler,
    SamplingOrder, Schedule, ScheduleKind, Settings, Task, TrainError, TrainingPlan, run,
};

pub type Model = LanguageModel<CpuBackend>;

#[derive(Default)]
pub struct Pull {
    /// A state of its own: how many steps it has seen.
    pub seen: u64,
    /// Metric `quality` by evaluated step.
    pub quality: BTreeMap<u64, f64>,
}

impl Task<CpuBackend> for Pull {
    fn accumulate(
        &mut self,
        model: &Model,
        gradients: &mut Gradients<CpuBackend>,
        step: u64,
        batches: &[Vec<usize>],
        measure: bool,
    ) -> Result<Averages, TrainError> {
        let (b, first) = (&*model.backend, batches[0][0] as f32);
        let mut loss = 0.0;
        for (value, gradient) in model.params.values.iter().zip(&mut gradients.values) {
            let data = b.download(value);
            let target = |i: usize| (0.1 * i as f32 + first + step as f32).sin();
            let pull = data.iter().enumerate().map(|(i, x)| x - target(i));
            let pull: Vec<f32> = pull.map(|x| 1e-3 * x).collect();
            loss += pull.iter().map(|x| f64::from(x * x)).sum::<f64>();
            *gradient = Some(b.upload(&pull));
        }
        let mut metrics = Averages::default();
        metrics.add_weighted("loss", loss, 1.0 + step as f64 / 3.0);
        if measure {
            metrics.add("measured", loss.sqrt());
        }
        Ok(metrics)
    }

    fn after_step(&mut self, _: &Model, rate: f64, _: f64) -> Averages {
        let mut metrics = Averages::default();
        metrics.add("rate", rate);
        metrics
    }

    fn evaluate(
        &mut self,
        _: &Model,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Averages>, TrainError> {
        if stop() {
            return Ok(None);
        }
        let mut metrics = Averages::default();
        metrics.add("loss", self.seen as f64);
        metrics.add(
            "quality",
            self.quality.get(&self.seen).copied().unwrap_or(0.0),
        );
        Ok(Some(metrics))
    }

    fn rows(&self, _: &[Vec<usize>]) -> Vec<usize> {
        Vec::new()
    }

    fn tokens(&self, batches: &[Vec<usize>]) -> usize {
        batches.iter().map(Vec::len).sum()
    }

    fn on_step_end(&mut self, _: &Model, step: u64) -> Result<(), TrainError> {
        self.seen += 1;
        assert_eq!(self.seen, step, "the task's own state was restored");
        Ok(())
    }

    fn save_state(&self, dir: &Path) -> Result<(), TrainError> {
        fs::write(dir.join("pull.txt"), self.seen.to_string()).unwrap();
        Ok(())
    }

    fn load_state(&mut self, dir: &Path) -> Result<(), TrainError> {
        self.seen = fs::read_to_string(dir.join("pull.txt"))
            .unwrap()
            .parse()
            .unwrap();
        Ok(())
    }
}

/// Keeps the rows; asks to stop at the `n`th question.
#[derive(Default)]
pub struct Watch {
    pub questions: u64,
    pub stop_at: Option<u64>,
    pub saved: Vec<String>,
    pub resumed: Option<(u64, usize)>,
}

impl Observer for Watch {
    fn on_step(&mut self, _: u64, _: &Averages, _: f64) {}
    fn on_resume(&mut self, step: u64, rows: &[Map<String, Value>]) {
        self.resumed = Some((step, rows.len()));
    }
    fn on_row(&mut self, _: &Map<String, Value>) {}
    fn on_save(&mut self, path: &Path) {
        self.saved
            .push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    fn stop(&mut self) -> bool {
        self.questions += 1;
        Some(self.questions) == self.stop_at
    }
}

/// One setting of everything; tests change what they are about.
#[derive(Clone)]
pub struct Case {
    pub settings: Settings,
    pub plan: TrainingPlan,
    pub dtype: StoredDtype,
    pub limit: Option<usize>,
    pub quality: BTreeMap<u64, f64>,
    pub further: Map<String, Value>,
}

pub fn case() -> Case {
    let sampler = Sampler {
        order: SamplingOrder::Random,
        seed: 5,
        batch: 2,
        accumulation: 2,
        lengths: (0..22).collect(),
    };
    let every = |every| {
        Some(Cadence {
            every,
            at_end: false,
        })
    };
    Case {
        settings: Settings {
            optimizer: OptimizerKind::AdamW {
                beta1: 0.9,
                beta2: 0.99,
                epsilon: 1e-8,
            },
            weight_decay: 0.1,
            max_grad_norm: 1.0,
            schedule: Schedule {
                kind: ScheduleKind::Linear,
                peak: 1e-2,
                warmup: 2,
                total: 12,
            },
            logging_steps: 5,
            logging_first_step: true,
            evaluate: every(4),
            eval_on_start: true,
            save: every(3),
            geometry_every: Some(2),
            update_every: None,
            gram_every: None,
            attribution: None,
            best: None,
        },
        plan: TrainingPlan { sampler, total: 12 },
        dtype: StoredDtype::F32,
        limit: None,
        quality: BTreeMap::new(),
        further: Map::new(),
    }
}

/// From where a run starts.
pub enum From<'a> {
    Scratch,
    Newest,
    Path(&'a Path),
}

impl Case {
    pub fn identity(&self) -> RunIdentity {
        RunIdentity::new(&self.plan, &self.settings, self.further.clone())
    }

    pub fn run(
        &self,
        dir: &Path,
        from: From<'_>,
        watch: &mut Watch,
    ) -> Result<(Outcome, Pull), TrainError> {
        let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models");
        let mut model = Model::load(Arc::new(CpuBackend::new()), &models.join("gpt2")).unwrap();
        let identity = self.identity();
        let resume = match from {
            From::Scratch => None,
            From::Newest => Checkpoint::newest(dir, &identity, &mut |_| {})?,
            From::Path(path) => Some(Checkpoint::open(path, &identity)?),
        };
        let files = Files {
            output_dir: dir.to_owned(),
            dtype: self.dtype,
            companions: &|_| Ok(()),
            save_total_limit: self.limit,
            identity,
            resume,
        };
        let mut task = Pull {
            quality: self.quality.clone(),
            ..Pull::default()
        };
        let outcome = run(
            &mut model,
            &mut task,
            &self.plan,
            &self.settings,
            &files,
            watch,
        )?;
        Ok((outcome, task))
    }
}
