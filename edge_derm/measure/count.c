/* Counts executed guest instructions: one inline 64-bit add a translated block. The guest reads the counter by seeking:
 * each lseek(any, MARK, SEEK_SET) writes the count so far as one line into the file named by the argument out=.
 *
 * The prototypes below are QEMU's plugin ABI, version 1 (QEMU 4.2 to 8.x: include/qemu/qemu-plugin.h and
 * docs/devel/tcg-plugins.rst of QEMU); Debian ships no header for them. Threads of the guest add to one counter without
 * a lock, which is why the guest runs the model on one thread.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MARK 0x5eedc0de /* edge_derm/measure/onboard.py seeks to it */
#define LSEEK 62        /* arm64's number */

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern void qemu_plugin_register_vcpu_syscall_cb(
    qemu_plugin_id_t,
    void (*)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t executed;
static FILE *goal;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &executed, qemu_plugin_tb_n_insns(block));
}

static void called(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t file, uint64_t offset, uint64_t whence,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)file, (void)whence, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number == LSEEK && offset == MARK) {
    fprintf(goal, "%" PRIu64 "\n", executed);
    fflush(goal);
  }
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc,
                                                               char **argv) {
  (void)info;
  goal = argc == 1 && strncmp(argv[0], "out=", 4) == 0 ? fopen(argv[0] + 4, "w") : NULL;
  if (goal == NULL) {
    fprintf(stderr, "count: expected the one argument out=FILE, a file that can be written\n");
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
