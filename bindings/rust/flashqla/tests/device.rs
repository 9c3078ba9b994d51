//! The device module with the fake driver of bindings/cpp/tests in the place of libcuda.so.1, which counts what is given back. Without
//! FLASHQLA_FAKE_DRIVER nothing is run.
#![forbid(unsafe_code)]

use flashqla::*;

#[test]
fn device_memory_of_cuda() {
    if std::env::var_os("FLASHQLA_FAKE_DRIVER").is_none() {
        return;
    }
    let refused = Device::open(7).map(drop).unwrap_err();
    assert_eq!((refused.status, refused.message.as_str()), (Status::CUDA_ERROR, "cuDeviceGet: CUDA_ERROR_INVALID_DEVICE (101)"));

    let device = Device::open(0).unwrap();
    let some: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let buffer = device.upload(&some).unwrap();
    let mut back = vec![0f32; 100];
    // Another thread, where no context is current: the buffer sets it.
    std::thread::scope(|scope| scope.spawn(|| buffer.download(&mut back).unwrap()).join().unwrap());
    assert_eq!(back, some);
    device.alloc::<f32>(100).unwrap().download(&mut back).unwrap();
    assert_eq!(back, vec![0f32; 100]);
    let stream = device.stream().unwrap();
    stream.synchronize().unwrap();
    device.synchronize().unwrap();

    let handle = Handle::new(Config { device: CPU, threads: 1, ..Config::default() }).unwrap();
    let problem = Problem { key_heads: 1, value_heads: 1, key_dim: 1, value_dim: 1, dtype: Dtype::F32, ..Problem::default() };
    let mut args = ForwardArgs { q: (&buffer).into(), ..ForwardArgs::default() };
    let sequences = Sequences { rows: 1, tokens: 1, ..Sequences::default() };
    let refused = handle.forward(&problem, &sequences, None, &mut args, Output::default(), &Stream::DEFAULT).unwrap_err();
    assert_eq!(refused.message, "args.q is memory of CUDA device 0: the handle is of the CPU");
    // Dropped on another thread, in the context that it belongs to.
    std::thread::scope(|scope| {
        scope.spawn(move || drop((buffer, stream)));
    });
}
