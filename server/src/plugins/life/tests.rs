use proptest::prelude::*;

use super::*;

fn enabled(now: Instant) -> Life {
    let (life, action) = Life::new(RestartsConfig::default()).after(Event::Enabled, now, 0.0);
    assert_eq!(action, Action::Start);
    life
}

fn run(life: Life, events: &[Event], now: Instant) -> (Life, Action) {
    events.iter().fold((life, Action::None), |(life, _), event| life.after(*event, now, 0.0))
}

/// So that only what a test is about ends its restarts.
fn tireless() -> RestartsConfig {
    RestartsConfig { give_up_after: u32::MAX, per_minute: u32::MAX, ..RestartsConfig::default() }
}

#[test]
fn pauses_grow_and_shrink_again_after_recovery() {
    let start = Instant::now();
    let mut life = enabled(start);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let (next, action) = run(life, &[Event::Started, Event::Died], start);
        let Action::Pause(pause) = action else { panic!("{action:?}") };
        pauses.push(pause.as_millis());
        life = run(next, &[Event::PauseOver], start).0;
    }
    assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000]);
    let policy = RestartsConfig::default();
    let (life, _) = life.after(Event::Started, start, 0.0);
    let recovered = start + policy.recovered_after;
    let (life, action) = life.after(Event::Died, recovered, 0.0);
    assert_eq!(action, Action::Pause(Duration::ZERO));
    let again = run(life, &[Event::PauseOver, Event::Started, Event::Died], recovered).1;
    assert_eq!(again, Action::Pause(policy.first_pause));
}

#[test]
fn a_failed_start_pauses_from_the_first_on() {
    let now = Instant::now();
    let (mut life, mut pauses) = (enabled(now), Vec::new());
    for _ in 0..4 {
        let (next, action) = life.after(Event::StartFailed, now, 0.0);
        let Action::Pause(pause) = action else { panic!("{action:?}") };
        pauses.push(pause.as_millis());
        life = next.after(Event::PauseOver, now, 0.0).0;
    }
    assert_eq!(pauses, [50, 100, 200, 400]);
}

#[test]
fn jitter_takes_up_to_half_of_a_pause() {
    let now = Instant::now();
    let relapsing = [Event::Started, Event::Died, Event::PauseOver, Event::Started];
    let pause = |random| run(enabled(now), &relapsing, now).0.after(Event::Died, now, random).1;
    assert_eq!(pause(0.0), Action::Pause(Duration::from_millis(50)));
    assert_eq!(pause(0.5), Action::Pause(Duration::from_micros(37_500)));
    assert_eq!(pause(1.0), Action::Pause(Duration::from_millis(25)));
}

#[test]
fn too_many_crashes_or_failed_starts_are_the_end_until_enabled() {
    let now = Instant::now();
    let policy = RestartsConfig::default();
    let mut life = enabled(now);
    for _ in 0..policy.give_up_after {
        assert_ne!(life.state(), State::Failed);
        life = run(life, &[Event::Started, Event::Died, Event::PauseOver], now).0;
    }
    assert_eq!(life.state(), State::Failed);
    let (mut life, action) = life.after(Event::Enabled, now, 0.0);
    assert_eq!(action, Action::Start);
    for _ in 0..policy.failed_starts {
        life = run(life, &[Event::StartFailed, Event::PauseOver], now).0;
    }
    assert_eq!(life.state(), State::Failed);
}

#[test]
fn old_crashes_are_forgiven() {
    let mut now = Instant::now();
    let policy = RestartsConfig::default();
    let mut life = enabled(now);
    for _ in 0..policy.give_up_after * 3 {
        life = run(life, &[Event::Started, Event::Died, Event::PauseOver], now).0;
        now += policy.give_up_within / 20;
    }
    assert_eq!(life.state(), State::Starting);
}

#[test]
fn a_refused_or_disabled_plugin_stays_down() {
    let now = Instant::now();
    let (life, _) = run(enabled(now), &[Event::StartRefused], now);
    assert_eq!(run(life.clone(), &[Event::Wanted, Event::PauseOver], now).1, Action::None);
    assert!(!life.state().may_become_ready());
    let (life, action) = run(enabled(now), &[Event::Started, Event::Disabled], now);
    assert_eq!((life.state(), action), (State::Stopped, Action::Stop));
    assert_eq!(life.after(Event::Died, now, 0.0).1, Action::None);
}

#[test]
fn an_unloaded_plugin_starts_when_it_is_wanted() {
    let now = Instant::now();
    let (life, action) = run(enabled(now), &[Event::Started, Event::Unloaded], now);
    assert_eq!((life.state(), action), (State::Unloaded, Action::Stop));
    assert_eq!(life.after(Event::Wanted, now, 0.0).1, Action::Start);
}

#[test]
fn failures_in_a_row_open_the_breaker_and_the_first_answer_closes_it() {
    let now = Instant::now();
    let policy = tireless();
    let mut life = Life::new(policy).after(Event::Enabled, now, 0.0).0;
    for failure in 1..=policy.open_after {
        assert_eq!(life.breaker(), Breaker::Closed, "before failure {failure}");
        life = run(life, &[Event::PauseOver, Event::Started, Event::Died], now).0;
    }
    assert_eq!((life.state(), life.breaker()), (State::BackingOff, Breaker::Open));
    let (life, action) = life.after(Event::PauseOver, now, 0.0);
    assert_eq!((life.breaker(), action), (Breaker::HalfOpen, Action::Start));
    let again = run(life.clone(), &[Event::Started, Event::Died], now).0;
    assert_eq!(again.breaker(), Breaker::Open, "one failure opens it again");
    let (life, _) = run(life, &[Event::Started, Event::Answered], now);
    assert_eq!((life.state(), life.breaker()), (State::Ready, Breaker::Closed));
    assert_eq!(run(life, &[Event::Died], now).0.breaker(), Breaker::Closed, "one failure does not open it");
}

#[test]
fn slow_answers_open_the_breaker_of_a_process_that_goes_on() {
    let now = Instant::now();
    let (life, action) = run(enabled(now), &[Event::Started, Event::Slow], now);
    assert_eq!((life.state(), life.breaker()), (State::Ready, Breaker::Open));
    assert_eq!(action, Action::Pause(RestartsConfig::default().longest_pause));
    let (life, _) = run(life, &[Event::PauseOver], now);
    assert_eq!((life.state(), life.breaker()), (State::Ready, Breaker::HalfOpen));
    assert_eq!(run(life.clone(), &[Event::Slow], now).0.breaker(), Breaker::Open);
    assert_eq!(run(life, &[Event::Answered], now).0.breaker(), Breaker::Closed);
}

#[test]
fn a_minute_has_so_many_restarts_and_the_next_one_waits() {
    let start = Instant::now();
    let policy = RestartsConfig { per_minute: 3, ..tireless() };
    let mut life = run(Life::new(policy), &[Event::Enabled], start).0;
    for second in 0..3 {
        let now = start + Duration::from_secs(second);
        let (next, action) = run(life, &[Event::Started, Event::Died, Event::PauseOver], now);
        assert_eq!(action, Action::Start);
        life = next;
    }
    let now = start + Duration::from_secs(10);
    let (life, action) = run(life, &[Event::Started, Event::Died, Event::PauseOver], now);
    assert_eq!((life.state(), action), (State::BackingOff, Action::Pause(Duration::from_secs(50))));
    assert_eq!(life.after(Event::PauseOver, now + Duration::from_secs(50), 0.0).1, Action::Start);
}

#[test]
fn a_postponed_start_is_no_failure() {
    let now = Instant::now();
    let (life, _) = run(enabled(now), &[Event::Started, Event::Died, Event::PauseOver], now);
    let wait = Duration::from_secs(7);
    let (life, action) = life.after(Event::Postponed(wait), now, 0.0);
    assert_eq!((life.state(), action), (State::BackingOff, Action::Pause(wait)));
    assert_eq!(life.after(Event::PauseOver, now, 0.0).1, Action::Start);
}

/// What the outside may do at any moment, whatever the state.
#[derive(Clone, Copy, Debug)]
enum Step {
    Operator(Event),
    /// A start that is under way ends so.
    Start(Event),
    /// Something happens to the process.
    Process(Event),
    /// Time passes, in milliseconds.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop_oneof![Just(Event::Enabled), Just(Event::Disabled), Just(Event::Unloaded), Just(Event::Wanted)]
            .prop_map(Step::Operator),
        prop_oneof![
            Just(Event::Started),
            Just(Event::StartFailed),
            Just(Event::StartRefused),
            (1_u64..90).prop_map(|seconds| Event::Postponed(Duration::from_secs(seconds))),
        ]
        .prop_map(Step::Start),
        prop_oneof![Just(Event::Died), Just(Event::Answered), Just(Event::Slow)].prop_map(Step::Process),
        (0_u64..20_000).prop_map(Step::Wait),
    ]
}

/// The supervisor, reduced to what it keeps: whether a start is under way, a process there, a pause running.
struct Model {
    life: Life,
    now: Instant,
    starting: bool,
    running: bool,
    pause: Option<Instant>,
    /// Starts that nobody asked for.
    restarts: Vec<Instant>,
}

impl Model {
    fn apply(&mut self, event: Event, random: f64) {
        let (life, action) = self.life.clone().after(event, self.now, random);
        self.life = life;
        match action {
            Action::None => {}
            Action::Pause(pause) => self.pause = Some(self.now + pause),
            Action::Start => {
                assert!(!self.starting && !self.running, "a second process");
                self.starting = true;
                if matches!(event, Event::PauseOver | Event::Wanted) {
                    self.restarts.push(self.now);
                }
            }
            Action::Stop => {
                assert!(self.running, "nothing to stop");
                self.running = false;
            }
        }
    }

    fn step(&mut self, step: Step, random: f64) {
        match step {
            // The supervisor takes no command while it starts a process.
            Step::Operator(event) if !self.starting => self.apply(event, random),
            Step::Start(event) if self.starting => {
                self.starting = false;
                self.running = event == Event::Started;
                self.apply(event, random);
            }
            Step::Process(event) if self.running => {
                self.running = event != Event::Died;
                self.apply(event, random);
            }
            Step::Wait(milliseconds) => {
                let until = self.now + Duration::from_millis(milliseconds);
                while let Some(over) = self.pause.filter(|over| *over <= until && !self.starting) {
                    self.now = self.now.max(over);
                    self.pause = None;
                    self.apply(Event::PauseOver, random);
                }
                self.now = self.now.max(until);
            }
            _ => {}
        }
    }

    fn check(&self, policy: &RestartsConfig) {
        assert_eq!(self.life.state() == State::Ready, self.running);
        assert_eq!(self.life.state() == State::Starting, self.starting);
        // Nobody waits for a plugin that never comes back by itself, and whoever is told to wait is answered.
        let comes_back = self.starting || self.running || self.pause.is_some() || self.life.state() == State::Unloaded;
        assert!(!self.life.state().may_become_ready() || comes_back, "{:?}", self.life);
        // An open breaker becomes half open by itself.
        let waits = matches!(self.life.state(), State::BackingOff | State::Ready);
        assert!(!waits || self.life.breaker() != Breaker::Open || self.pause.is_some(), "{:?}", self.life);
        for (at, first) in self.restarts.iter().enumerate() {
            let minute = self.restarts[at..].iter().take_while(|later| later.duration_since(*first) < MINUTE);
            assert!(minute.count() <= policy.per_minute as usize, "{:?}", self.restarts);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_restarts_are_bounded_and_there_is_one_process(
        steps in prop::collection::vec((step(), 0.0..1.0_f64), 1..200),
        per_minute in 1_u32..10,
        open_after in 1_u32..6,
        give_up_after in 2_u32..40,
    ) {
        let policy = RestartsConfig { per_minute, open_after, give_up_after, ..RestartsConfig::default() };
        let mut model = Model {
            life: Life::new(policy),
            now: Instant::now(),
            starting: false,
            running: false,
            pause: None,
            restarts: Vec::new(),
        };
        for (step, random) in steps {
            model.step(step, random);
            model.check(&policy);
        }
    }
}
