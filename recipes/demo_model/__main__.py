import sys, argparse, logging
from pathlib import Path
from recipes.demo_model import data
def main():
    p=argparse.ArgumentParser(); p.add_argument("step"); p.add_argument("--folder",type=Path,default=Path("demo-model")); p.add_argument("--cache",type=Path)
    a=p.parse_args(); logging.basicConfig(level=logging.INFO,format="%(asctime)s %(message)s")
    data.build(a.folder, a.cache or a.folder/"cache")
if __name__=="__main__": sys.exit(main())
