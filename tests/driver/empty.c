/* A libcuda.so.1 without any of its functions. */
extern int empty_cuda;
int empty_cuda = 0;
