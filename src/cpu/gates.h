// Gate and beta in all their forms, for one row and value head: the only reading of them on the CPU, and the chain rule back.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "convert.h"
#include "rows.h"

namespace fqla::cpu {

template <class Real>
Real sigmoid(Real z) {
    return z >= 0 ? 1 / (1 + std::exp(-z)) : std::exp(z) / (1 + std::exp(z));
}

template <class Real>
Real softplus(Real z) {
    return (z > 0 ? z : Real(0)) + std::log1p(std::exp(-std::abs(z)));
}

// Double is the oracle: only what would make a NaN (-inf) is clamped. Float clamps at kMinLogGate as the kernels do. NaN passes.
template <class Real>
Real clamp_log_gate(Real g) {
    const Real lowest = std::is_same<Real, double>::value ? -std::numeric_limits<Real>::max() : Real(kMinLogGate);
    return g < lowest ? Real(kMinLogGate) : g;
}

template <class Real>
Real clamp_linear_gate(Real alpha) {
    const Real floor = std::exp(Real(kMinLogGate)), lowest = std::is_same<Real, double>::value ? std::numeric_limits<Real>::min() : floor;
    return alpha < lowest ? floor : alpha;
}

template <class Real>
struct Gate {
    Real log, decay;  // g and exp(g); log is not set for linear gates
};

// dA_log and ddt_bias of one row and head.
struct RawSums {
    double a_log, dt_bias;
};

template <class Real>
class HeadGates {
public:
    HeadGates(const Form& form, const Inputs& in, int64_t n, const RowTokens& row, int64_t h) : form_(form), in_(in), n_(n), h_(h), row_(row) {
        if (form.gate != FLASHQLA_GATE_RAW || !in.a_log.data) return;  // null where a call has no tokens
        rate_ = std::exp(load_element<Real>(in.a_log.data, in.a_log.dtype, h * in.a_log.head));
        bias_ = load_element<Real>(in.dt_bias.data, in.dt_bias.dtype, h * in.dt_bias.head);
    }

    Gate<Real> gate(int64_t t) const {
        const Real x = input(in_.gate, t);
        if (form_.gate == FLASHQLA_GATE_LINEAR) return {Real(0), clamp_linear_gate(x)};
        const Real g = clamp_log_gate(form_.gate == FLASHQLA_GATE_RAW ? -rate_ * softplus(x + bias_) : x);
        return {g, std::exp(g)};
    }

    Real beta(int64_t t) const {
        const Real x = input(in_.beta, t);
        return Real(form_.beta_scale) * (form_.beta == FLASHQLA_BETA_LOGIT ? sigmoid(x) : x);
    }

    // dL/d(what gate holds) from dL/dg; raw gates add to the sums of A_log and dt_bias, if given.
    Real gate_gradient(int64_t t, const Gate<Real>& gate, Real dg, RawSums* sums) const {
        if (form_.gate == FLASHQLA_GATE_LINEAR) return dg / gate.decay;
        if (form_.gate == FLASHQLA_GATE_LOG) return dg;
        const Real da = -dg * rate_ * sigmoid(input(in_.gate, t) + bias_);
        if (sums) {
            sums->a_log += static_cast<double>(dg * gate.log);
            sums->dt_bias += static_cast<double>(da);
        }
        return da;
    }

    Real beta_gradient(int64_t t, Real dbeta) const {
        if (form_.beta != FLASHQLA_BETA_LOGIT) return Real(form_.beta_scale) * dbeta;
        const Real z = sigmoid(input(in_.beta, t));
        return Real(form_.beta_scale) * z * (1 - z) * dbeta;
    }

private:
    Real input(const View& x, int64_t t) const { return load_element<Real>(x.data, x.dtype, element_offset(x, n_, row_, t, h_)); }

    const Form& form_;
    const Inputs& in_;
    int64_t n_, h_;
    RowTokens row_;
    Real rate_ = 0, bias_ = 0;  // exp(A_log), dt_bias
};

}  // namespace fqla::cpu
