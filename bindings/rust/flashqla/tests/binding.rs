//! The safe crate end to end on the CPU: gradients against finite differences through every field, states, refusals, threads.
#![forbid(unsafe_code)]
#![allow(non_snake_case)]

use flashqla::*;
use std::sync::{Arc, Mutex};

/// Numbers in [-1, 1) that differ from array to array.
fn numbers(count: usize, step: usize) -> Vec<f64> {
    (0..count).map(|i| ((i + 1) * step % 64) as f64 / 32.0 - 1.0).collect()
}

fn cpu() -> Handle {
    Handle::new(Config { device: CPU, threads: 2, ..Config::default() }).unwrap()
}

const TOKENS: usize = 6;
const ROWS: usize = 2;
const STATE: usize = 2 * 3 * 2;

/// Two rows packed by offsets, states in pools with slots; all of it in double.
#[derive(Clone)]
struct Job {
    problem: Problem,
    offsets: Vec<i64>,
    read_slots: Vec<i32>,
    write_slots: Vec<i32>,
    /// q, k, v, gate, beta, A_log, dt_bias and the pool that is read.
    inputs: [Vec<f64>; 8],
    out: Vec<f64>,
    write_pool: Vec<f64>,
    d_out: Vec<f64>,
    d_final: Vec<f64>,
}

/// The C fields of one call, which borrow a job.
struct Parts<'a> {
    sequences: Sequences<'a>,
    state: State<'a>,
    args: ForwardArgs<'a>,
}

impl Job {
    fn new() -> Job {
        let mut problem = Problem::new(Form::QWEN).unwrap();
        problem.key_heads = 1;
        problem.value_heads = 2;
        problem.key_dim = 3;
        problem.value_dim = 2;
        problem.dtype = Dtype::F64;
        let (t, n) = (TOKENS, numbers);
        Job {
            problem,
            offsets: vec![0, 2, 6],
            read_slots: vec![2, 0],
            write_slots: vec![1, 2],
            inputs: [n(t * 3, 7), n(t * 3, 11), n(t * 4, 13), n(t * 2, 5), n(t * 2, 3), n(2, 9), n(2, 17), n(3 * STATE, 19)],
            out: vec![0.0; t * 4],
            write_pool: vec![0.0; 3 * STATE],
            d_out: n(t * 4, 23),
            d_final: n(ROWS * STATE, 29),
        }
    }

    fn parts(&mut self) -> Parts<'_> {
        let [q, k, v, gate, beta, A_log, dt_bias, read] = &self.inputs;
        Parts {
            sequences: Sequences { rows: ROWS as i32, tokens: TOKENS as i64, max_tokens: 4, offsets: (&self.offsets).into() },
            state: State {
                pools: Pools::Both(
                    Pool { data: read.into(), slots: 3, slot_stride: 0 },
                    PoolMut { data: (&mut self.write_pool).into(), slots: 3, slot_stride: 0 },
                ),
                read_slots: (&self.read_slots).into(),
                write_slots: (&self.write_slots).into(),
                ..State::default()
            },
            args: ForwardArgs {
                q: q.into(),
                k: k.into(),
                v: v.into(),
                gate: gate.into(),
                beta: beta.into(),
                A_log: A_log.into(),
                dt_bias: dt_bias.into(),
                out: (&mut self.out).into(),
                saved: Output::default(),
            },
        }
    }

    fn forward(&mut self, handle: &Handle) -> Result<()> {
        self.forward_with(handle, |_| ())
    }

    /// A forward call after `spoil` has had its way with the arguments.
    fn forward_with(&mut self, handle: &Handle, spoil: impl FnOnce(&mut Parts)) -> Result<()> {
        let problem = self.problem;
        let mut p = self.parts();
        spoil(&mut p);
        handle.forward(&problem, &p.sequences, Some(&mut p.state), &mut p.args, Output::default(), &Stream::DEFAULT)
    }

    fn loss(&mut self, handle: &Handle) -> f64 {
        self.forward(handle).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let slot = |n: usize| &self.write_pool[self.write_slots[n] as usize * STATE..][..STATE];
        dot(&self.d_out, &self.out) + (0..ROWS).map(|n| dot(&self.d_final[n * STATE..], slot(n))).sum::<f64>()
    }
}

#[track_caller]
fn refused(result: Result<()>, status: Status, part: &str) {
    let error = result.expect_err("was not refused");
    assert_eq!(error.status, status, "{}", error);
    assert!(error.message.contains(part), "{}", error);
}

#[test]
fn the_library_and_the_handle_tell_about_themselves() {
    assert_eq!(version(), 100);
    assert!(build_info().contains("0.1.0"), "{}", build_info());
    let handle = cpu();
    let info = handle.info().unwrap();
    assert_eq!((info.device, info.threads, info.name.as_str()), (CPU, 2, "CPU"));
    let mut job = Job::new();
    let problem = job.problem;
    let p = job.parts();
    let query = handle.query(&problem, &p.sequences, Some(&p.state), Op::FORWARD).unwrap();
    assert_eq!((query.status, query.launches), (Status::OK, 0));
    assert!(query.engine_name.starts_with("cpu") && !query.reason.is_empty());
    assert!(handle.explain(&problem, &p.sequences, Some(&p.state), Op::BACKWARD).unwrap().contains("cpu"));
    handle.warmup(None, Op::FORWARD).unwrap();
    handle.warmup(Some(&problem), Op::BACKWARD).unwrap();
    let plain = Problem { scale: 0.0, ..Problem::default() };
    assert_eq!(Problem::new(Form::PLAIN).unwrap(), plain);
    assert_eq!(format!("{}", Status::NOT_WARM), "NOT_WARM");
}

#[test]
fn every_gradient_is_that_of_finite_differences() {
    let handle = cpu();
    let mut job = Job::new();
    let mut gradients = job.inputs.clone().map(|x| vec![0.0; x.len()]);
    gradients[7] = vec![0.0; ROWS * STATE];
    {
        let problem = job.problem;
        let (d_out, d_final) = (job.d_out.clone(), job.d_final.clone());
        let p = job.parts();
        let a = &p.args;
        let [dq, dk, dv, d_gate, d_beta, dA_log, ddt_bias, d_initial] = &mut gradients;
        let mut args = BackwardArgs {
            q: a.q,
            k: a.k,
            v: a.v,
            gate: a.gate,
            beta: a.beta,
            A_log: a.A_log,
            dt_bias: a.dt_bias,
            d_out: (&d_out).into(),
            d_final: (&d_final).into(),
            dq: dq.into(),
            dk: dk.into(),
            dv: dv.into(),
            d_gate: d_gate.into(),
            d_beta: d_beta.into(),
            dA_log: dA_log.into(),
            ddt_bias: ddt_bias.into(),
            d_initial: d_initial.into(),
            saved: Input::default(),
        };
        let device = Device::open(CPU).unwrap();
        let query = handle.query(&problem, &p.sequences, Some(&p.state), Op::BACKWARD).unwrap();
        let mut workspace = device.alloc::<u8>(query.workspace_bytes as usize).unwrap();
        let workspace = (&mut workspace).into();
        handle.backward(&problem, &p.sequences, Some(&p.state), &mut args, workspace, &Stream::DEFAULT).unwrap();
    }
    for (field, gradient) in gradients.iter().enumerate() {
        for (at, found) in gradient.iter().enumerate() {
            let there = if field == 7 { job.read_slots[at / STATE] as usize * STATE + at % STATE } else { at };
            let (kept, step) = (job.inputs[field][there], 1e-5);
            job.inputs[field][there] = kept + step;
            let above = job.loss(&handle);
            job.inputs[field][there] = kept - step;
            let below = job.loss(&handle);
            job.inputs[field][there] = kept;
            let expected = (above - below) / (2.0 * step);
            assert!((expected - found).abs() < 1e-7, "field {}, element {}", field, at);
        }
    }
}

#[test]
fn what_the_forward_saves_and_strides() {
    let handle = cpu();
    let (mut plain, mut wide) = (Job::new(), Job::new());
    plain.forward(&handle).unwrap();
    let mut row = Vec::new(); // q, k and v of a token side by side
    for t in 0..TOKENS {
        row.extend_from_slice(&wide.inputs[0][t * 3..][..3]);
        row.extend_from_slice(&wide.inputs[1][t * 3..][..3]);
        row.extend_from_slice(&wide.inputs[2][t * 4..][..4]);
    }
    let device = Device::open(CPU).unwrap();
    let problem = wide.problem;
    let mut p = wide.parts();
    let query = handle.query(&problem, &p.sequences, Some(&p.state), Op::FORWARD).unwrap();
    let mut workspace = device.alloc::<u8>(query.workspace_bytes as usize).unwrap();
    let mut saved = device.alloc::<u8>(query.saved_bytes as usize).unwrap();
    p.args.q = Input::from(&row[..]).strides(0, 10, 3);
    p.args.k = Input::from(&row[3..]).strides(0, 10, 3);
    p.args.v = Input::from(&row[6..]).strides(0, 10, 2);
    if query.saved_bytes > 0 {
        p.args.saved = (&mut saved).into();
    }
    let stream = device.stream().unwrap();
    handle.forward(&problem, &p.sequences, Some(&mut p.state), &mut p.args, (&mut workspace).into(), &stream).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(wide.out, plain.out);
    assert_eq!(wide.write_pool, plain.write_pool);
    let short: &'static [f64] = Box::leak(row[6..row.len() - 1].to_vec().into_boxed_slice());
    let result = wide.forward_with(&handle, |p| p.args.v = Input::from(short).strides(0, 10, 2));
    refused(result, Status::INVALID_ARGUMENT, "args.v has 53 elements of dtype 4: must be 54");
}

#[test]
fn checkpoints_per_token_states_and_rollback() {
    let handle = cpu();
    let device = Device::open(CPU).unwrap();
    let problem = Problem { key_heads: 1, value_heads: 1, key_dim: 4, value_dim: 4, dtype: Dtype::F64, ..Problem::default() };
    let upload = |step| device.upload(&numbers(128 * 4, step)).unwrap();
    let (q, k, v) = (upload(7), upload(11), upload(13));
    let (gate, beta) = (device.upload(&[-0.25; 128]).unwrap(), device.upload(&[0.5; 128]).unwrap());
    let mut out = device.alloc::<f64>(128 * 4).unwrap();
    let mut run = |from: usize, count: usize, state: &mut State| {
        let wide = from * 4..(from + count) * 4;
        let mut args = ForwardArgs {
            q: q.part(wide.clone()),
            k: k.part(wide.clone()),
            v: v.part(wide.clone()),
            gate: gate.part(from..from + count),
            beta: beta.part(from..from + count),
            out: out.part_mut(wide),
            ..ForwardArgs::default()
        };
        let sequences = Sequences { rows: 1, tokens: count as i64, ..Sequences::default() };
        handle.forward(&problem, &sequences, Some(state), &mut args, Output::default(), &Stream::DEFAULT).unwrap();
    };
    let mut pool = device.alloc::<f64>(5 * 16).unwrap();
    let slot = |pool: &Buffer<f64>, i: usize| {
        let mut all = vec![0.0; 5 * 16];
        pool.download(&mut all).unwrap();
        all[i * 16..(i + 1) * 16].to_vec()
    };
    let (none, zero, one, two, tokens) = ([slot::NONE].to_vec(), vec![0], vec![1], vec![2], vec![2, 3, 4]);

    fn write(pool: Output) -> PoolMut {
        PoolMut { data: pool, slots: 5, slot_stride: 0 }
    }
    let pools = Pools::Write(write((&mut pool).into()));
    run(0, 64, &mut State { pools, write_slots: (&zero).into(), ..State::default() });
    run(
        0,
        128,
        &mut State {
            pools: Pools::Write(write((&mut pool).into())),
            write_slots: (&none).into(),
            checkpoint_interval: 64,
            checkpoint_slots: (&one).into(),
            checkpoint_width: 1,
            ..State::default()
        },
    );
    assert_eq!(slot(&pool, 0), slot(&pool, 1));

    run(
        64,
        3,
        &mut State {
            flags: state_flags::NO_FINAL,
            pools: Pools::InPlace(write((&mut pool).into())),
            read_slots: (&zero).into(),
            write_slots: (&one).into(),
            token_slots: (&tokens).into(),
            token_width: 3,
            ..State::default()
        },
    );
    // From the state after two of the three.
    run(
        66,
        1,
        &mut State {
            pools: Pools::InPlace(write((&mut pool).into())),
            read_slots: (&zero).into(),
            write_slots: (&one).into(),
            token_slots: (&tokens).into(),
            token_width: 3,
            accepted: (&two).into(),
            ..State::default()
        },
    );
    let pools = Pools::InPlace(write((&mut pool).into()));
    run(64, 3, &mut State { pools, read_slots: (&zero).into(), write_slots: (&zero).into(), ..State::default() });
    assert_eq!(slot(&pool, 0), slot(&pool, 1));
}

#[test]
fn what_is_wrong_is_refused_with_a_reason() {
    let handle = cpu();
    let floats = vec![0f32; TOKENS * 3];
    let floats: &'static [f32] = Box::leak(floats.into_boxed_slice());
    let doubles: &'static [f64] = Box::leak(numbers(TOKENS * 3, 7).into_boxed_slice());
    let offsets: &'static [i64] = &[0, 2];
    let invalid = |part: &str, spoil: &dyn Fn(&mut Parts)| {
        refused(Job::new().forward_with(&handle, |p| spoil(p)), Status::INVALID_ARGUMENT, part);
    };
    invalid("args.q.dtype = 1: must be F64", &|p| p.args.q = floats.into());
    invalid("args.k has 17 elements of dtype 4: must be 18", &|p| p.args.k = doubles[1..].into());
    invalid("args.beta.data is NULL: it is required", &|p| p.args.beta = Input::default());
    invalid("args.out.data is NULL: it is required", &|p| p.args.out = Output::default());
    invalid("args.q.stride_token = -3: negative", &|p| p.args.q = p.args.q.strides(0, -3, 3));
    invalid("args.q has 18", &|p| p.args.q = p.args.q.strides(0, i64::MAX, 3));
    invalid("sequences.tokens = -1", &|p| p.sequences.tokens = -1);
    invalid("sequences.tokens = 9223372036854775807", &|p| p.sequences.tokens = i64::MAX);
    invalid("sequences.rows = -2", &|p| p.sequences.rows = -2);
    invalid("sequences.offsets has 2 elements", &|p| p.sequences.offsets = offsets.into());
    invalid("sequences.offsets_dtype", &|p| p.sequences.offsets = floats.into());
    invalid("state.read_slots has 18 elements of dtype 1", &|p| p.state.read_slots = floats.into());
    invalid("state.read_data has 18 elements of dtype 1", &|p| {
        p.state.write_slots = Input::default();
        p.state.pools = Pools::Read(Pool { data: floats.into(), slots: 0, slot_stride: 0 })
    });
    invalid("state.read_data has 18 elements of dtype 4: must be 24", &|p| {
        p.state.write_slots = Input::default();
        p.state.pools = Pools::Read(Pool { data: doubles.into(), slots: 0, slot_stride: 0 })
    });
    invalid("state.checkpoint_interval = 7", &|p| p.state.checkpoint_interval = 7);

    let mut job = Job::new();
    job.problem.key_dim = 999;
    refused(job.forward(&handle), Status::INVALID_ARGUMENT, "problem.key_dim = 999: must be 1 to 256");
    job.problem.key_dim = -3;
    refused(job.forward(&handle), Status::INVALID_ARGUMENT, "problem.key_dim = -3");
    let mut job = Job::new();
    job.problem.gate = GateForm::LOG_PER_KEY;
    refused(job.forward(&handle), Status::UNSUPPORTED, "LOG_PER_KEY");
    let mut job = Job::new();
    job.out.truncate(3);
    refused(job.forward(&handle), Status::INVALID_ARGUMENT, "args.out has 3");
    job = Job::new();
    job.write_pool.pop();
    refused(job.forward(&handle), Status::INVALID_ARGUMENT, "state.write_data has 35");

    refused(Problem::new(Form(99)).map(drop), Status::INVALID_ARGUMENT, "form = 99");
    for (device, threads) in [(-7, 0), (CPU, -1)] {
        assert_eq!(Handle::new(Config { device, threads, ..Config::default() }).unwrap_err().status, Status::INVALID_ARGUMENT);
    }
    refused(handle.warmup(None, Op(9)), Status::INVALID_ARGUMENT, "op = 9");
    if let Err(e) = Device::open(12345) {
        assert!(e.message.contains("CUDA"), "{}", e);
    }
    let device = Device::open(CPU).unwrap();
    let mut buffer = device.alloc::<f32>(4).unwrap();
    refused(buffer.upload(&[1.0]), Status::INVALID_ARGUMENT, "1 elements for a buffer of 4");
    refused(buffer.download(&mut [0.0; 5]), Status::INVALID_ARGUMENT, "5 elements for a buffer of 4");
    assert_eq!(device.alloc::<f64>(usize::MAX / 2).map(|b| b.len()).unwrap_err().status, Status::OUT_OF_MEMORY);
}

#[test]
fn threads_share_a_handle_and_keep_their_errors_apart() {
    fn shared<T: Send + Sync>() {}
    shared::<Handle>();
    shared::<Device>();
    shared::<Buffer<'static, f32>>();
    shared::<Stream<'static>>();
    shared::<State<'static>>();
    shared::<ForwardArgs<'static>>();
    shared::<Error>();

    let handle = cpu();
    let mut first = Job::new();
    first.forward(&handle).unwrap();
    let (handle, first) = (&handle, &first);
    std::thread::scope(|scope| {
        for i in 0..4 {
            scope.spawn(move || {
                for _ in 0..20 {
                    let mut job = Job::new();
                    job.forward(handle).unwrap();
                    assert_eq!(job.out, first.out);
                    job.problem.key_dim = 1000 + i;
                    refused(job.forward(handle), Status::INVALID_ARGUMENT, &format!("key_dim = {}", 1000 + i));
                }
            });
        }
    });
}

#[test]
fn the_log_is_called_and_may_panic() {
    let said = Arc::new(Mutex::new(String::new()));
    let heard = said.clone();
    let log: Log = Box::new(move |level, message| {
        *heard.lock().unwrap() = format!("{}{}", level.0, message);
        panic!("a log that panics");
    });
    let handle = Handle::new(Config { threads: 1, log: Some(log), ..Config::default() }).unwrap();
    let on_cuda = handle.info().unwrap().device >= 0;
    let text = said.lock().map_or_else(|poisoned| poisoned.into_inner().clone(), |text| text.clone());
    assert!(on_cuda || text.starts_with("1no usable CUDA device"), "{}", text);
}
