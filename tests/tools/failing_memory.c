/* A memory allocator for NumPy's arrays that refuses one allocation, the one it is told to.

   install()    use it for every array from now on
   fail_at(n)   refuse the n-th allocation from now on, counted from 1; 0: refuse none
   count()      how many allocations there have been since fail_at, which stops refusing
*/
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION
#include <numpy/arrayobject.h>

static long seen = 0, refused = 0;

static int refuse(void) { return ++seen == refused; }

static void *new_block(void *context, size_t size) { return refuse() ? NULL : malloc(size); }

static void *new_zeros(void *context, size_t count, size_t size) {
    return refuse() ? NULL : calloc(count, size);
}

static void *resize(void *context, void *block, size_t size) {
    return refuse() ? NULL : realloc(block, size);
}

static void release(void *context, void *block, size_t size) { free(block); }

static PyDataMem_Handler handler = {
    "failing_memory", 1, {NULL, new_block, new_zeros, resize, release}};

static PyObject *install(PyObject *self, PyObject *args) {
    PyObject *capsule = PyCapsule_New(&handler, "mem_handler", NULL);
    if (capsule == NULL) return NULL;
    PyObject *before = PyDataMem_SetHandler(capsule);
    Py_DECREF(capsule);
    if (before == NULL) return NULL;
    Py_DECREF(before);
    Py_RETURN_NONE;
}

static PyObject *fail_at(PyObject *self, PyObject *args) {
    if (!PyArg_ParseTuple(args, "l", &refused)) return NULL;
    seen = 0;
    Py_RETURN_NONE;
}

static PyObject *count(PyObject *self, PyObject *args) {
    refused = 0;
    return PyLong_FromLong(seen);
}

static PyMethodDef methods[] = {
    {"install", install, METH_NOARGS, "Use this allocator for every array from now on."},
    {"fail_at", fail_at, METH_VARARGS, "Refuse the n-th allocation from now on; 0: none."},
    {"count", count, METH_NOARGS, "How many allocations there were since fail_at."},
    {NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "failing_memory", NULL, -1, methods};

PyMODINIT_FUNC PyInit_failing_memory(void) {
    import_array();
    return PyModule_Create(&module);
}
