/* mps3-an547: Arm Cortex-M55, started in the secure state. SysTick runs at 32 MHz. */
#ifndef ED_BOARD_H
#define ED_BOARD_H

#define ED_UART_BASE 0x59303000u
#define ED_TICK_PS 31250u

#endif
