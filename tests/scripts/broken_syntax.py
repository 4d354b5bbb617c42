import torch
for step in range(10)
    print(step)
