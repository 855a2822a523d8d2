/* mps2-an505: Arm Cortex-M33, started in the secure state. SysTick runs at 20 MHz. */
#ifndef ED_BOARD_H
#define ED_BOARD_H

#define ED_UART_BASE 0x50200000u
#define ED_TICK_PS 50000u

#endif
