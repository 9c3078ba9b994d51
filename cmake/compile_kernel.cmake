# Runs nvcc on one kernel source and keeps what ptxas says of registers, spills and shared memory. A wgmma kernel that ptxas serialises
# or whose setmaxnreg it ignores (messages C75xx) is a failed build; C7519 only tells of a fence that it added.
set(includes)
foreach(dir IN LISTS INCLUDES)
  list(APPEND includes -I${dir})
endforeach()
execute_process(
  COMMAND ${NVCC} -fatbin -std=c++17 -O3 ${FLAGS} ${includes} -ccbin ${HOST} --expt-relaxed-constexpr --compress-mode=size -Werror all-warnings -Xptxas -v -MD -MF ${FATBIN}.d
          -MT ${FATBIN} -o ${FATBIN} ${SOURCE}
  RESULT_VARIABLE result
  OUTPUT_VARIABLE report
  ERROR_VARIABLE report)
file(WRITE ${FATBIN}.ptxas "${report}")
if(result)
  message(FATAL_ERROR "${report}")
endif()
if(report MATCHES "C75(0[0-9]|1[0-8])")
  message(FATAL_ERROR "ptxas serialised wgmma or ignored setmaxnreg:\n${report}")
endif()
