#pragma once
namespace fqla {
// One line: version, images inside, toolkit, compiler. Valid for ever.
const char* build_info();
}  // namespace fqla
