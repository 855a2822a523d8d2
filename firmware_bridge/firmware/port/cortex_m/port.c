/* Every emulated Cortex-M board: start-up, semihosting, SysTick as instruction counter, CMSDK UART, painted stack.
 *
 * board.h of the board says ED_UART_BASE and how many picoseconds a SysTick tick lasts; under -icount shift=0 an
 * instruction lasts one nanosecond of virtual time. */
#include "board.h"
#include "port.h"

#include <string.h>

extern uint32_t ed_stack_top[], ed_stack_bottom[];
extern uint32_t ed_data_load[], ed_data_start[], ed_data_end[], ed_bss_start[], ed_bss_end[];

int main(void);
void ed_reset(void);
void ed_fault(void);
void ed_tick(void);

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define SYSTICK_CONTROL REGISTER(0xE000E010u)
#define SYSTICK_RELOAD REGISTER(0xE000E014u)
#define SYSTICK_VALUE REGISTER(0xE000E018u)
#define COPROCESSOR_ACCESS REGISTER(0xE000ED88u)
#define UART_DATA REGISTER(ED_UART_BASE)
#define UART_STATE REGISTER(ED_UART_BASE + 4u)
#define UART_CONTROL REGISTER(ED_UART_BASE + 8u)
#define UART_DIVIDER REGISTER(ED_UART_BASE + 16u)

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_EXIT_EXTENDED = 0x20 };
enum { SYSTICK_MASK = 0xFFFFFF, PAINT = 0x5EDC0DE5 };

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)ed_stack_top, (uintptr_t)ed_reset, (uintptr_t)ed_fault, (uintptr_t)ed_fault,
    (uintptr_t)ed_fault,     (uintptr_t)ed_fault, (uintptr_t)ed_fault, (uintptr_t)ed_fault,
    0,                       0,                   0,                   (uintptr_t)ed_fault,
    (uintptr_t)ed_fault,     0,                   (uintptr_t)ed_fault, (uintptr_t)ed_tick,
};

static int32_t semihost(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

static int32_t console = -1;

void ed_reset(void) {
    memcpy(ed_data_start, ed_data_load, (size_t)((char *)ed_data_end - (char *)ed_data_start));
    memset(ed_bss_start, 0, (size_t)((char *)ed_bss_end - (char *)ed_bss_start));
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    COPROCESSOR_ACCESS |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    ed_port_exit(main());
}

void ed_fault(void) {
    ed_port_print("fault\n");
    ed_port_exit(99);
}

void ed_port_init(void) {
    UART_DIVIDER = 16;
    UART_CONTROL = 3;
    SYSTICK_RELOAD = SYSTICK_MASK;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 7;
}

void ed_port_write(const void *bytes, size_t size) {
    if (console < 0) {
        static const char name[] = ":tt";
        const uintptr_t open[3] = {(uintptr_t)name, 4, sizeof name - 1};
        console = semihost(SYS_OPEN, open);
    }
    const uintptr_t block[3] = {(uintptr_t)console, (uintptr_t)bytes, size};
    (void)semihost(SYS_WRITE, block);
}

void ed_port_print(const char *text) { ed_port_write(text, strlen(text)); }

void ed_port_report(const char *name, uint32_t value) {
    char digits[12];
    char *at = digits + sizeof digits - 1;
    *at = '\0';
    *--at = '\n';
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    ed_port_print(name);
    ed_port_print("=");
    ed_port_print(at);
}

void ed_port_exit(int status) {
    const uint32_t block[2] = {0x20026, (uint32_t)status};
    (void)semihost(SYS_EXIT_EXTENDED, block);
    for (;;) {
    }
}

/* SysTick counts 24 bits down; its exception counts the wraps, so that no figure depends on being asked often. */
static volatile uint32_t wraps;

void ed_tick(void) { ++wraps; }

static uint64_t ticks(void) {
    uint32_t before, low;
    do {
        before = wraps;
        low = (0u - SYSTICK_VALUE) & SYSTICK_MASK; /* the exception comes as the value reaches 0 */
    } while (before != wraps);
    return ((uint64_t)before << 24) + low;
}

static uint64_t count_begin;

void ed_port_count_start(void) { count_begin = ticks(); }

uint32_t ed_port_count(void) { return (uint32_t)((ticks() - count_begin) * ED_TICK_PS / 1000u); }

uint32_t ed_port_microseconds(void) { return (uint32_t)(ticks() * ED_TICK_PS / 1000000u); }

enum { UNPAINTED = 8 }; /* words kept clear of the painter's own frame; counted as used */
static uint32_t *painted_top;

static uint32_t *stack_pointer(void) {
    uint32_t *sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    return sp;
}

void ed_port_stack_paint(void) {
    painted_top = stack_pointer() - UNPAINTED;
    for (volatile uint32_t *word = ed_stack_bottom; word < painted_top; ++word) {
        *word = PAINT;
    }
}

uint32_t ed_port_stack_used(void) {
    const volatile uint32_t *word = ed_stack_bottom;
    while (word < painted_top && *word == PAINT) {
        ++word;
    }
    return (uint32_t)((uintptr_t)(painted_top + UNPAINTED) - (uintptr_t)word);
}

void ed_port_uart_send(uint8_t byte) {
    while (UART_STATE & 1u) {
    }
    UART_DATA = byte;
}

int ed_port_uart_receive(void) { return (UART_STATE & 2u) ? (int)(UART_DATA & 0xFFu) : -1; }
