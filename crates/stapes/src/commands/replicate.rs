//! `stapes replicate`: runs the jobs of the configuration.

use clap::Args;
use stapes_core::config::{Job, Notifications};
use stapes_core::event::{Event, RunReport, Work};
use stapes_core::id::{JobName, RunId};
use stapes_core::outcome::Outcome;
use stapes_core::replicate::copy::CopyAction;
use stapes_core::replicate::plan::{ReplicateOptions, ReplicationPlan};
use stapes_engine::clock::Clock;
use stapes_engine::events::{self, Consumer, Events};
use stapes_engine::lock::Holder;
use stapes_engine::notify::Notifier;
use stapes_engine::replicate::{self, Connector, Prepared, Request};
use stapes_engine::run::{RunContext, RunLock, State, new_run_id};
use tokio_util::sync::CancellationToken;

use crate::args::Format;
use crate::confirm::confirm_in_run;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::{self, plan::PlanParts};
use crate::report_error::CommandError;
use crate::running::recover;
use crate::settings::{LoadedConfig, Settings, entropy, machine_identity};

/// Snapshot, copy to the other servers, and thin: what the jobs of the configuration say
///
/// Three phases over all items of a job: snapshots on the source, copies to every target, thinning
/// on both sides. An item that fails does not stop the others.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes replicate                     every job of the configuration
  stapes replicate nightly --dry-run   show what job nightly would do, and change nothing
  stapes replicate nightly --output json --dry-run")]
pub(crate) struct ReplicateArgs {
    /// The job [default: every job, in alphabetical order]
    pub(crate) job: Option<String>,
    /// Show the plan and change nothing on any server
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Show the snapshots and copies of the plan, and change nothing
    #[arg(long)]
    pub(crate) dry_run_copy: bool,
    /// Show what would be thinned and why the rest stays, and change nothing
    #[arg(long)]
    pub(crate) dry_run_prune: bool,
    /// Thin targets with the source's policy and keep no history beyond it, as incusAutobackup does
    #[arg(long)]
    pub(crate) ios_fix: bool,
    /// Overwrite targets that are not replicas of ours, that run, or that were changed (asks first)
    #[arg(long)]
    pub(crate) force: bool,
    /// How many items are worked on at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) parallel: u16,
}

impl ReplicateArgs {
    /// The parts of the plan to show, if this is a dry run.
    fn dry_run_parts(&self) -> Option<PlanParts> {
        let parts = PlanParts {
            copy: self.dry_run || self.dry_run_copy,
            prune: self.dry_run || self.dry_run_prune,
        };
        (parts.copy || parts.prune).then_some(parts)
    }
}

pub(crate) async fn run(args: &ReplicateArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let loaded = settings.load_config()?;
    output::warnings(&loaded, settings);
    let jobs = loaded.jobs(args.job.as_deref())?;
    let state = State::open(&settings.state_dir(Some(&loaded.config)))?;
    let cancel = interrupt::token();
    let connector = loaded.connector(settings.credentials(Some(&loaded.config)));
    if args.dry_run_parts().is_none() {
        recover(&connector, &state, &cancel).await?;
    }
    let mut exit = Exit::Complete;
    let mut shared = SharedServices::start(&jobs, args, &loaded, settings).await;
    for job in jobs {
        if cancel.is_cancelled() {
            exit = Exit::Interrupted;
            break;
        }
        let notifications = shared.of_job(job, &loaded);
        let work = JobRun {
            args,
            settings,
            loaded: &loaded,
            state: &state,
            job,
            notifications,
            cancel: &cancel,
        };
        let ended = match Box::pin(work.run(&connector)).await {
            Ok((ended, report)) => {
                shared.reports.extend(report);
                ended
            }
            Err(error) => {
                output::error_line(&error.render());
                error.exit
            }
        };
        exit = exit.worst(ended);
    }
    shared.finish().await;
    Ok(exit)
}

/// One job, from the lock to the notification.
struct JobRun<'a> {
    args: &'a ReplicateArgs,
    settings: &'a Settings,
    loaded: &'a LoadedConfig,
    state: &'a State,
    job: &'a Job,
    /// Who is told about this run alone.
    notifications: Notifications,
    cancel: &'a CancellationToken,
}

/// How a job ended, and its report if it was a real run.
type Ended = (Exit, Option<(RunId, RunReport)>);

impl JobRun<'_> {
    async fn run(&self, connector: &Connector<'_>) -> Result<Ended, CommandError> {
        let clock = Clock::System;
        let now = clock.now();
        // Locks tell the living from the dead, and those are of one state directory.
        let machine = format!("{}\n{}", machine_identity(), self.state.dir().display());
        let run = new_run_id(now, &machine, entropy());
        let request = Request {
            config: &self.loaded.config,
            job: self.job,
            options: ReplicateOptions { ios_fix: self.args.ios_fix, force: self.args.force },
            parallel: usize::from(self.args.parallel),
            machine: &machine,
        };
        if let Some(parts) = self.args.dry_run_parts() {
            let prepared = replicate::prepare(request, connector, &clock, self.cancel).await?;
            return Ok((self.show_plan(&prepared, parts), None));
        }
        let holder = Holder {
            pid: std::process::id(),
            run: run.to_string(),
            doing: format!("job {}", self.job.name),
            since: now,
        };
        let _job_lock = self.state.locks.take(&format!("job {}", self.job.name), &holder)?;
        let _run_lock = RunLock::take(&self.state.locks, &holder)?;
        let consumers = self.consumers();
        let (events, pump) = events::start(run.clone(), clock.clone(), consumers);
        let context = RunContext { run: run.clone(), clock, cancel: self.cancel.clone(), events };
        let report = self.execute(request, connector, &context).await;
        drop(context);
        pump.drained().await;
        match report {
            Ok(report) => {
                let exit =
                    if report.interrupted { Exit::Interrupted } else { report.outcome.into() };
                Ok((exit, Some((run, report))))
            }
            Err(error) => {
                output::error_line(&error.render());
                Ok((error.exit, Some((run, failed_run(self.job, &error.message())))))
            }
        }
    }

    /// Plans, asks where it must, runs, and tells the notification services in between.
    async fn execute(
        &self,
        request: Request<'_>,
        connector: &Connector<'_>,
        context: &RunContext,
    ) -> Result<RunReport, CommandError> {
        let environment = self.settings.environment();
        let (notifier, failures) = Notifier::prepare(&self.notifications, &environment).await;
        tell(&context.events, failures).await;
        tell(&context.events, notifier.started(&context.run, &self.job.name).await).await;
        let prepared =
            match replicate::prepare(request, connector, &context.clock, &context.cancel).await {
                Ok(prepared) => prepared,
                Err(error) => {
                    let report = failed_run(self.job, &error.explained());
                    tell(&context.events, notifier.finished(&context.run, &report).await).await;
                    return Err(error.into());
                }
            };
        if let Err(refused) = self.confirm_force(&prepared.plan, &context.cancel).await {
            let report = failed_run(self.job, &"not confirmed");
            tell(&context.events, notifier.finished(&context.run, &report).await).await;
            return Err(refused);
        }
        let report = replicate::run(&prepared, self.state, context).await;
        tell(&context.events, notifier.finished(&context.run, &report).await).await;
        Ok(report)
    }

    /// `--force` is asked about once more, with what it would overwrite.
    async fn confirm_force(
        &self,
        plan: &ReplicationPlan,
        cancel: &CancellationToken,
    ) -> Result<(), CommandError> {
        let forced: Vec<String> = plan
            .items
            .iter()
            .flat_map(|item| &item.targets)
            .flat_map(|target| &target.copy.forced)
            .map(|what| format!("overwrite: {what}"))
            .collect();
        confirm_in_run(forced, "Overwrite these?", self.settings.yes, cancel).await
    }

    fn consumers(&self) -> Vec<Box<dyn Consumer>> {
        if self.settings.format == Format::Json {
            return vec![Box::new(output::json::Lines::default())];
        }
        output::human::consumers(self.settings.quiet)
    }

    fn show_plan(&self, prepared: &Prepared<'_>, parts: PlanParts) -> Exit {
        let text = match self.settings.format {
            Format::Json => output::plan::json(prepared, parts),
            Format::Table | Format::Yaml => output::plan::table(prepared, parts),
        };
        output::result(&text);
        let blocked = prepared
            .plan
            .items
            .iter()
            .flat_map(|item| &item.targets)
            .any(|target| matches!(target.copy.action, CopyAction::Blocked(_)));
        let failed =
            blocked || !prepared.plan.missing.is_empty() || !prepared.unreachable.is_empty();
        if failed { Exit::Failed } else { Exit::Complete }
    }
}

/// Global notification services that several jobs of one invocation share: told once at the start
/// and once at the end, because a check that is pinged by each job forgets the failure of the first
/// at the success of the second.
#[derive(Default)]
struct SharedServices {
    several: bool,
    healthchecks: Notifier,
    gotify: Notifier,
    /// Jobs that have a service of their own in its place.
    own_healthchecks: Vec<JobName>,
    own_gotify: Vec<JobName>,
    reports: Vec<(RunId, RunReport)>,
}

impl SharedServices {
    async fn start(
        jobs: &[&Job],
        args: &ReplicateArgs,
        loaded: &LoadedConfig,
        settings: &Settings,
    ) -> Self {
        let several = jobs.len() > 1;
        if !several || args.dry_run_parts().is_some() {
            return Self { several, ..Self::default() };
        }
        let global = &loaded.config.notifications;
        let names = |own: fn(&Job) -> bool| -> Vec<JobName> {
            jobs.iter().filter(|job| own(job)).map(|job| job.name.clone()).collect()
        };
        let own_healthchecks = names(|job| job.notifications.healthchecks.is_some());
        let own_gotify = names(|job| job.notifications.gotify.is_some());
        let used = |own: &[JobName]| own.len() < jobs.len();
        let healthchecks = Notifications {
            healthchecks: global.healthchecks.clone().filter(|_| used(&own_healthchecks)),
            gotify: None,
        };
        let gotify = Notifications {
            healthchecks: None,
            gotify: global.gotify.clone().filter(|_| used(&own_gotify)),
        };
        let environment = settings.environment();
        let (healthchecks, unready) = Notifier::prepare(&healthchecks, &environment).await;
        warn(unready);
        let (gotify, unready) = Notifier::prepare(&gotify, &environment).await;
        warn(unready);
        if let Some(first) = jobs.first() {
            let run = new_run_id(Clock::System.now(), &machine_identity(), entropy());
            warn(healthchecks.started(&run, &first.name).await);
        }
        Self { several, healthchecks, gotify, own_healthchecks, own_gotify, reports: Vec::new() }
    }

    /// Who is told about one job alone: of several jobs, only its own services.
    fn of_job(&self, job: &Job, loaded: &LoadedConfig) -> Notifications {
        if self.several {
            job.notifications.clone()
        } else {
            job.notifications.or(&loaded.config.notifications)
        }
    }

    async fn finish(self) {
        let without = |own: &[JobName]| -> Vec<(RunId, RunReport)> {
            self.reports
                .iter()
                .filter(|(_, report)| report.work.job().is_none_or(|job| !own.contains(job)))
                .cloned()
                .collect()
        };
        warn(self.healthchecks.finished_all(&without(&self.own_healthchecks)).await);
        warn(self.gotify.finished_all(&without(&self.own_gotify)).await);
    }
}

/// For services that are told outside of a run, and so outside of its events.
fn warn(failures: Vec<stapes_engine::notify::Failure>) {
    for (service, cause) in failures {
        output::error_line(&format!("warning: {service} was not told: {cause}"));
    }
}

async fn tell(events: &Events, failures: Vec<stapes_engine::notify::Failure>) {
    for (service, cause) in failures {
        events.emit(Event::NotificationFailed { service, cause }).await;
    }
}

/// The report of a run that did not get to its items.
fn failed_run(job: &Job, cause: &dyn std::fmt::Display) -> RunReport {
    RunReport {
        work: Work::Job(job.name.clone()),
        outcome: Outcome::Failed,
        cause: Some(cause.to_string()),
        items: Vec::new(),
        elapsed: std::time::Duration::ZERO,
        interrupted: false,
    }
}
