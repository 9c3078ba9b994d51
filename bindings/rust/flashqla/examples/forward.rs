//! The shortest whole use of flashqla, on the best device there is. Two rows of three tokens, in f32, from an empty state; prints a
//! checksum that is the same in every language's example.
#![forbid(unsafe_code)]

use flashqla::{Buffer, Config, Device, Dtype, Form, ForwardArgs, Handle, Op, Problem, Result, Sequences, Stream};

const ROWS: usize = 2;
const TOKENS: usize = 6;
const HEADS: usize = 2;
const DIM: usize = 16;
const VALUES: usize = TOKENS * HEADS * DIM;
const SCALARS: usize = TOKENS * HEADS;

/// Device memory with `count` numbers in it: step/64 apart, going round in [-range, range).
fn numbers(device: &Device, count: usize, step: usize, range: f32) -> Result<Buffer<'_, f32>> {
    let host: Vec<f32> = (0..count).map(|i| range * ((i * step % 64) as f32 / 32.0 - 1.0)).collect();
    device.upload(&host)
}

fn main() -> Result<()> {
    let handle = Handle::new(Config::default())?; // the best device
    let info = handle.info()?;
    let device = Device::open(info.device)?;

    let mut problem = Problem::new(Form::QWEN)?;
    problem.key_heads = HEADS as i32;
    problem.value_heads = HEADS as i32;
    problem.key_dim = DIM as i32;
    problem.value_dim = DIM as i32;
    problem.dtype = Dtype::F32;
    let sequences = Sequences { rows: ROWS as i32, tokens: TOKENS as i64, ..Default::default() };

    let (q, k, v) = (numbers(&device, VALUES, 7, 1.0)?, numbers(&device, VALUES, 11, 1.0)?, numbers(&device, VALUES, 13, 1.0)?);
    let (gate, beta) = (numbers(&device, SCALARS, 5, 2.0)?, numbers(&device, SCALARS, 3, 2.0)?);
    let (a_log, dt_bias) = (numbers(&device, HEADS, 9, 1.0)?, numbers(&device, HEADS, 17, 1.0)?);
    let mut out = numbers(&device, VALUES, 0, 0.0)?;
    let mut args = ForwardArgs::default();
    (args.q, args.k, args.v) = ((&q).into(), (&k).into(), (&v).into());
    (args.gate, args.beta) = ((&gate).into(), (&beta).into());
    (args.A_log, args.dt_bias) = ((&a_log).into(), (&dt_bias).into());
    args.out = (&mut out).into();

    let query = handle.query(&problem, &sequences, None, Op::FORWARD)?;
    let mut workspace = device.alloc::<u8>(query.workspace_bytes as usize)?;
    handle.forward(&problem, &sequences, None, &mut args, (&mut workspace).into(), &Stream::DEFAULT)?;
    device.synchronize()?;

    let mut result = vec![0f32; VALUES];
    out.download(&mut result)?;
    let sum: f64 = result.iter().enumerate().map(|(i, &x)| f64::from(x) * (i % 7 + 1) as f64).sum();
    println!("{}, {}: checksum {:.4}", info.name, query.engine_name, sum);
    Ok(())
}
