/* mps2-an500: Arm Cortex-M7. SysTick runs at 25 MHz. */
#ifndef ED_BOARD_H
#define ED_BOARD_H

#define ED_UART_BASE 0x40004000u
#define ED_TICK_PS 40000u

#endif
