// Plans onto a stream: parameters filled, kernels enqueued. Never waits, never allocates, never reads device memory.
#include "device.h"
#include "driver.h"
#include "kernel_args.h"
#include "loader.h"
#include "status.h"
#include "tensor_map.h"

namespace fqla::cuda {
namespace {

// A plan's kernels, all looked up before anything is enqueued, so that NOT_WARM and its like come first.
struct LoadedPlan {
    const Caps& caps;
    const Plan& plan;
    const CUstream stream;
    const Driver* driver = nullptr;
    CUkernel kernels[Plan::kMaxSteps] = {};
    bool enqueued = false;

    int32_t load() {
        if (const int32_t s = check_context(caps)) return s;
        if (const int32_t s = open_driver(driver)) return s;
        KernelId ids[Plan::kMaxSteps];
        for (int i = 0; i < plan.step_count; i++) ids[i] = plan.steps[i].kernel;
        return get_kernels(*driver, caps, ids, plan.step_count, stream, kernels);
    }

    int32_t launch(int i, void* params) {
        const Step& step = plan.steps[i];
        CUlaunchConfig config{};
        config.gridDimX = step.grid[0];
        config.gridDimY = step.grid[1];
        config.gridDimZ = step.grid[2];
        config.blockDimX = step.threads;
        config.blockDimY = config.blockDimZ = 1;
        config.sharedMemBytes = step.shared_bytes;
        config.hStream = stream;
        CUlaunchAttribute overlap{};
        overlap.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        overlap.value.programmaticStreamSerializationAllowed = 1;
        config.attrs = &overlap;
        config.numAttrs = step.overlaps ? 1 : 0;
        void* arguments[] = {params};
        // A CUkernel stands wherever a CUfunction does: the driver takes the current context's.
        const CUresult result = driver->cuLaunchKernelEx(&config, reinterpret_cast<CUfunction>(kernels[i]), arguments, nullptr);
        if (result == CUDA_SUCCESS) {
            enqueued = true;
            return FLASHQLA_STATUS_OK;
        }
        const int32_t status = driver_failure(*driver, result, "cuLaunchKernelEx");
        return enqueued ? FLASHQLA_STATUS_CUDA_ERROR : status;  // the one status that may come after a part was enqueued
    }

    // Fills a step's parameters: make_args(step, segment, args) gives their size.
    template <class MakeArgs>
    int32_t run_steps(When when, int segment, const MakeArgs& make_args) {
        KernelArgs args;
        for (int i = 0; i < plan.step_count; i++) {
            if (plan.steps[i].when != when) continue;
            if (!make_args(plan.steps[i], segment, args))
                return fail(FLASHQLA_STATUS_INTERNAL, "%s does not belong to this operation", kKernels[static_cast<int>(plan.steps[i].kernel)].symbol);
            if (const int32_t s = launch(i, &args)) return s;
        }
        return FLASHQLA_STATUS_OK;
    }

    template <class MakeArgs>
    int32_t run(const MakeArgs& make_args) {
        if (const int32_t s = run_steps(When::before, 0, make_args)) return s;
        for (int segment = 0; segment < plan.segments - 1; segment++)
            if (const int32_t s = run_steps(When::each_but_last, segment, make_args)) return s;
        for (int segment = plan.segments - 1; segment >= 0; segment--)
            if (const int32_t s = run_steps(When::each_segment, segment, make_args)) return s;
        return run_steps(When::after, 0, make_args);
    }
};

}  // namespace

int32_t launch_forward(const Caps& caps, const Plan& plan, const Forward& call, const Memory& memory, void* stream) {
    LoadedPlan loaded{caps, plan, static_cast<CUstream>(stream)};
    if (const int32_t s = loaded.load()) return s;
    TensorMaps maps;
    if (plan.engine != FLASHQLA_ENGINE_RECURRENT)
        if (const int32_t s = make_tensor_maps(*loaded.driver, call, maps)) return s;
    return loaded.run([&](const Step& step, int, KernelArgs& args) { return make_kernel_args(step, plan, call, maps, memory, args); });
}

int32_t launch_backward(const Caps& caps, const Plan& plan, const Backward& call, const Memory& memory, void* stream) {
    LoadedPlan loaded{caps, plan, static_cast<CUstream>(stream)};
    if (const int32_t s = loaded.load()) return s;
    BackwardMaps maps;
    if (plan.engine != FLASHQLA_ENGINE_RECURRENT)
        if (const int32_t s = make_tensor_maps(*loaded.driver, call, maps)) return s;
    return loaded.run([&](const Step& step, int segment, KernelArgs& args) { return make_kernel_args(step, segment, plan, call, maps, memory, args); });
}

}  // namespace fqla::cuda
