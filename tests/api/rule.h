// A rule of the API, as a table's row: how to break it, what the call then says.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "call.h"

struct Rule {
    const char* name;
    std::function<void(Call&)> broken_by;
    std::vector<const char*> says;  // field, value, rule: all must be in the message
    int32_t status = FLASHQLA_STATUS_INVALID_ARGUMENT;
};

enum Through { through_forward = 1, through_backward = 2, through_query = 4, through_all = 7 };

// Breaks each rule in a fresh call: the status is as told, the message names what it must, and no byte of any array has changed.
void check_rules(const std::vector<Rule>& rules, int through);
