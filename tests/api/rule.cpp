#include "rule.h"

namespace {

void check_message(const Rule& rule, const std::string& message) {
    CAPTURE(message);
    for (const std::string part : rule.says) {
        CAPTURE(part);
        CHECK(message.find(part) != std::string::npos);
    }
    // A text that was cut, or a value printed by a wrong format, would show here.
    CHECK(message.size() > 8);
    CHECK(message.size() < 900);
}

void check_refused(const Rule& rule, int32_t (Call::*run)()) {
    Call call;
    rule.broken_by(call);
    call.memory.remember();
    CHECK(flashqla_status_name((call.*run)()) == std::string(flashqla_status_name(rule.status)));
    check_message(rule, flashqla_last_error());
    CHECK(call.memory.unchanged());
}

// A query fails as the call would, but answers where it is well formed and not supported.
void check_query(const Rule& rule, int32_t op) {
    Call call;
    rule.broken_by(call);
    call.memory.remember();
    const int32_t status = call.query(op);
    CHECK(call.memory.unchanged());
    if (rule.status != FLASHQLA_STATUS_UNSUPPORTED) {
        CHECK(status == rule.status);
        check_message(rule, flashqla_last_error());
        return;
    }
    CHECK(status == FLASHQLA_STATUS_OK);
    CHECK(call.info.status == FLASHQLA_STATUS_UNSUPPORTED);
    CHECK(call.info.workspace_bytes == 0);
    REQUIRE(call.info.reason != nullptr);
    REQUIRE(call.info.engine_name != nullptr);
    check_message(rule, call.info.reason);
}

}  // namespace

void check_rules(const std::vector<Rule>& rules, int through) {
    for (const Rule& rule : rules) {
        CAPTURE(std::string(rule.name));
        if (through & through_forward) check_refused(rule, &Call::forward);
        if (through & through_backward) check_refused(rule, &Call::backward);
        if (through & through_query) {
            check_query(rule, FLASHQLA_OP_FORWARD);
            check_query(rule, FLASHQLA_OP_BACKWARD);
        }
    }
}
